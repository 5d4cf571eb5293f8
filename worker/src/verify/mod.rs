//! Training graph against deployed engine on the same images.
