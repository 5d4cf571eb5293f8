//! One file per subcommand; everything else is in the library.
