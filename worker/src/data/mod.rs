//! Sources, sampler, decode, augment, loader.
