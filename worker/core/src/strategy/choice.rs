//! Choices with a fixed set of answers, each defined here once: for flags, files, the wire and the library.

/// A number that names no choice, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no {what}")]
pub struct UnknownChoice {
    /// The choice.
    pub what: &'static str,
    /// The number.
    pub number: i32,
}

/// An enumeration whose first variant is the default and whose variants are numbered from 0 on the wire, with the name
/// each has in files and flags.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_text:literal,
      $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, Default)]
        #[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            #[serde(rename = $first_text)]
            #[cfg_attr(feature = "clap", value(name = $first_text))]
            $first,
            $(
                $(#[$variant_doc])*
                #[serde(rename = $text)]
                #[cfg_attr(feature = "clap", value(name = $text))]
                $variant,
            )*
        }

        impl $name {
            /// All of them, in the order of their numbers on the wire.
            pub const ALL: &[Self] = &[Self::$first, $(Self::$variant),*];

            /// Its name in files and flags.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::$first => $first_text,
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl TryFrom<i32> for $name {
            type Error = $crate::strategy::UnknownChoice;

            fn try_from(number: i32) -> Result<Self, Self::Error> {
                let found = usize::try_from(number).ok().and_then(|i| Self::ALL.get(i)).copied();
                found.ok_or($crate::strategy::UnknownChoice { what: stringify!($name), number })
            }
        }
    };
}
pub(crate) use choice;

choice! {
    /// Automatic mixed precision: the type in which convolutions and matrix products compute.
    Amp {
        /// FP32 throughout. On GPUs, outside quantization-aware training, operands of convolutions and matrix products are
        /// rounded to TF32 where the GPU has it.
        Off = "off",
        /// BF16 compute, FP32 master weights.
        Bf16 = "bf16",
        /// FP16 compute, FP32 master weights, loss scaling.
        Fp16 = "fp16",
    }
}

impl Amp {
    /// Name of the type that convolutions and matrix products compute in: `fp32`, `bf16` or `fp16`.
    pub const fn precision(self) -> &'static str {
        match self {
            Amp::Off => "fp32",
            Amp::Bf16 => "bf16",
            Amp::Fp16 => "fp16",
        }
    }
}

choice! {
    /// The type that gradients have on their way between workers; they are FP32 before and after.
    ReduceType {
        /// FP32.
        Fp32 = "fp32",
        /// BF16: half the bytes, and the range of FP32; each sum on the way is rounded to 8 significant bits. The last bucket, which
        /// has statistics and losses, is FP32.
        Bf16 = "bf16",
    }
}

choice! {
    /// Memory order of four-dimensional values and weights.
    Layout {
        /// Channels last.
        Nhwc = "NHWC",
        /// Channels first.
        Nchw = "NCHW",
    }
}

choice! {
    /// The runtime a quantized network is trained for.
    Target {
        /// OpenVINO on CPUs.
        Openvino = "openvino",
        /// ONNX Runtime's CPU provider.
        Onnxruntime = "onnxruntime",
        /// NVIDIA TensorRT.
        Tensorrt = "tensorrt",
    }
}

impl Target {
    /// Whether its kernels are in integers only where all neighbours are: every operator is quantized at all inputs and
    /// behind, codes are unsigned, biases INT32.
    pub const fn integer_neighbours(self) -> bool {
        matches!(self, Target::Onnxruntime)
    }

    /// Whether it has signed codes alone, with zero point 0: those of a tensor that is never negative end at 127.
    pub const fn signed_codes(self) -> bool {
        matches!(self, Target::Tensorrt)
    }
}

choice! {
    /// How activation ranges are found and kept.
    Observer {
        /// Calibrated by the mean of the microbatches' absolute maxima, then moved by them.
        MovingAverage = "moving-average",
        /// The largest absolute value ever seen.
        Max = "max",
        /// Calibrated by a percentile of the absolute values, then held.
        Percentile = "percentile",
        /// Calibrated by the smallest squared quantization error, then held.
        Mse = "mse",
        /// Calibrated by the smallest relative entropy (Kullback-Leibler), then held.
        Entropy = "entropy",
    }
}

impl Observer {
    /// Whether ranges rest where calibration, by a histogram, puts them.
    pub const fn holds_ranges(self) -> bool {
        matches!(self, Observer::Percentile | Observer::Mse | Observer::Entropy)
    }
}

choice! {
    /// The kind of device tensors live on.
    Device {
        /// Main memory; collectives over Gloo.
        Cpu = "cpu",
        /// One CUDA device per worker; collectives over NCCL.
        Cuda = "cuda",
    }
}

choice! {
    /// The device that is asked for.
    DeviceChoice {
        /// CUDA when the machine has a usable GPU, CPU otherwise; the choice is logged with its reason.
        Auto = "auto",
        /// CPU, collectives over Gloo.
        Cpu = "cpu",
        /// One GPU per worker, collectives over NCCL.
        Cuda = "cuda",
    }
}

choice! {
    /// Collectives for tests, whatever the device and the number of workers.
    TestBackend {
        /// As outside tests: NCCL on GPUs, Gloo on CPUs, none for one worker.
        Auto = "auto",
        /// Gloo, of one worker too.
        Gloo = "gloo",
        /// NCCL, of one worker too; on CPUs only a stand-in for it, named in `OCTRAIN_NCCL`, can work.
        Nccl = "nccl",
    }
}

choice! {
    /// What a graph is wanted for.
    Purpose {
        /// Training.
        Train = "train",
        /// Evaluation of what was trained.
        Eval = "eval",
        /// A file for a runtime.
        Export = "export",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_the_wire_name_the_choice_they_were_made_from() {
        for &o in Observer::ALL {
            assert_eq!(Observer::try_from(o as i32), Ok(o));
        }
        assert_eq!(Amp::try_from(2), Ok(Amp::Fp16));
        for no in [-1, 3, i32::MAX] {
            assert_eq!(Amp::try_from(no), Err(UnknownChoice { what: "Amp", number: no }));
        }
        assert_eq!((Layout::default().name(), Target::Tensorrt.to_string()), ("NHWC", "tensorrt".into()));
        assert_eq!(Amp::ALL.iter().map(|a| a.precision()).collect::<Vec<_>>(), ["fp32", "bf16", "fp16"]);
        let integer: Vec<bool> = Target::ALL.iter().map(|t| t.integer_neighbours()).collect();
        assert_eq!(integer, [false, true, false]);
        let signed: Vec<bool> = Target::ALL.iter().map(|t| t.signed_codes()).collect();
        assert_eq!(signed, [false, false, true]);
    }
}
