//! Gradients as backward has them, while it still runs.

use super::{NativeError, check};
use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;
use tch::Tensor;

unsafe extern "C" {
    fn octrain_on_gradient(
        leaf: *const c_void,
        context: *mut c_void,
        come: extern "C" fn(*mut c_void, *const c_void),
        forget: extern "C" fn(*mut c_void),
    ) -> *mut c_char;
}

/// What hears of a gradient.
type Listener = Box<dyn Fn(&Tensor) + Send + Sync>;

extern "C" fn come(context: *mut c_void, gradient: *const c_void) {
    // SAFETY: the context that `on_gradient` gave, alive until `forget`.
    let listener = unsafe { &*context.cast::<Listener>() };
    // SAFETY: a tensor of the C++ side's, valid during the call, which stays its own: it is not dropped here.
    let gradient = ManuallyDrop::new(unsafe { Tensor::from_ptr(gradient.cast_mut().cast()) });
    listener(&gradient);
}

extern "C" fn forget(context: *mut c_void) {
    // SAFETY: the context that `on_gradient` gave, which is forgotten once.
    drop(unsafe { Box::from_raw(context.cast::<Listener>()) });
}

/// Has `listener` hear of the gradient of `leaf`, which requires one, whenever a backward has all of it: on the thread that runs
/// backward on that device, before backward is over. The gradient is undefined where the backward has none for it. It is
/// forgotten with the leaf, and those who have made of it what a backward is run of.
pub fn on_gradient(
    leaf: &Tensor,
    listener: impl Fn(&Tensor) + Send + Sync + 'static,
) -> Result<(), NativeError> {
    let context = Box::into_raw(Box::new(Box::new(listener) as Listener));
    // SAFETY: the leaf is a live tensor; the context is the C++ side's from here on, whatever it answers.
    unsafe { check(octrain_on_gradient(leaf.as_ptr().cast(), context.cast(), come, forget)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tch::{Device, Kind};

    #[test]
    fn a_gradient_is_heard_of_once_it_is_whole_in_the_order_of_backward_and_the_listener_is_forgotten_with_the_leaf()
     {
        let options = (Kind::Float, Device::Cpu);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let leaf = |name: &'static str| {
            let leaf = Tensor::ones([2], options).set_requires_grad(true);
            let heard = heard.clone();
            let listener = move |gradient: &Tensor| {
                let values = Vec::<f32>::try_from(gradient).unwrap();
                heard.lock().unwrap().push((name, values));
            };
            on_gradient(&leaf, listener).unwrap();
            leaf
        };
        let (first, second) = (leaf("first"), leaf("second"));
        // The first is used twice: its gradient has two parts.
        let loss = ((&first * 2.0) * &second + &first).sum(Kind::Float);
        let taken = Tensor::f_run_backward(&[loss], &[&first, &second], false, false).unwrap();
        let told = std::mem::take(&mut *heard.lock().unwrap());
        assert_eq!(told, [("second", vec![2.0; 2]), ("first", vec![3.0; 2])]);
        assert_eq!(Vec::<f32>::try_from(&taken[0]).unwrap(), [3.0; 2], "whoever asks for it has it still");
        drop((first, second, taken));
        assert_eq!(Arc::strong_count(&heard), 1);
        let plain = Tensor::ones([2], options);
        assert!(on_gradient(&plain, |_| ()).is_err(), "what requires no gradient has none");
    }
}
