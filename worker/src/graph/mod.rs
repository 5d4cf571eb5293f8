//! The intermediate representation: nodes, typed values, named parameters. No libtorch.
