//! Arguments and TOML to one validated, serialisable `RunConfig`.
