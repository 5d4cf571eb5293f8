//! What an epoch leaves out.

/// What of a training set the last, incomplete global batch leaves out of an epoch.
pub(super) fn remainder(images: usize, global: usize) -> Option<String> {
    let rest = images % global;
    (rest > 0).then(|| {
        format!(
            "{rest} of {images} training images drop out of every epoch, others each time: they do not fill a global batch of {global}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_do_not_fill_a_global_batch_are_counted() {
        assert_eq!(remainder(128, 64), None);
        assert!(remainder(130, 64).unwrap().starts_with("2 of 130 training images drop out of every epoch"));
    }
}
