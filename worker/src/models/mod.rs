//! Pure graph constructors.
