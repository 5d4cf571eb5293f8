//! The `octrain` binary.

fn main() -> std::process::ExitCode {
    octrain::cli::main()
}
