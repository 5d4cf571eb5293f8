//! Threads that compute on their own.

unsafe extern "C" {
    fn octrain_alone();
}

/// From now on the calling thread runs libtorch's parallel loops alone.
///
/// OpenMP gives every thread that runs one a team of its own, and where teams have more threads than there are processors, whoever
/// waits for work sleeps at once: a step's many short loops would then wake the training's own threads one by one.
pub fn alone() {
    // SAFETY: sets a number of the calling thread.
    unsafe { octrain_alone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_alone_leaves_the_others_as_they_are() {
        let before = tch::get_num_threads();
        let there = std::thread::spawn(|| {
            alone();
            tch::get_num_threads()
        });
        assert_eq!(there.join().unwrap(), 1);
        assert_eq!(std::thread::spawn(tch::get_num_threads).join().unwrap(), before);
        assert_eq!(tch::get_num_threads(), before);
    }
}
