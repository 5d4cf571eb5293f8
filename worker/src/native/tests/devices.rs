//! Settings of GPUs that can be read back without one.

use super::super::devices::{allow_tf32, make_current, tf32_allowed};
use super::*;

#[test]
fn tf32_is_one_setting_for_convolutions_and_products() {
    for on in [true, false] {
        allow_tf32(on).unwrap();
        assert_eq!(tf32_allowed().unwrap(), [on; 2]);
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_the_cpu_needs_none() {
    make_current(Device::Cpu).unwrap();
    if load_cuda().unwrap() && tch::Cuda::is_available() {
        make_current(Device::Cuda(0)).unwrap();
    } else {
        let e = make_current(Device::Cuda(0)).unwrap_err().to_string();
        assert!(e.to_lowercase().contains("cuda"), "{e}");
    }
}
