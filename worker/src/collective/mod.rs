//! Collectives over ranks behind one trait: Gloo, NCCL, local, faulty.
