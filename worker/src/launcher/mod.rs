//! Worker processes of one host: spawn, logs, signals, exit codes.
