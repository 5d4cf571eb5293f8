//! REFERENCE.md is what the binaries say of themselves; `OCTRAIN_UPDATE_GOLDEN=1` writes it anew.

use octrain_tests::binary;
use octrain_tests::policy::repository;
use std::process::Command;

/// Subcommands that a help lists, in its order; none where it lists none.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    listed
        .lines()
        .take_while(|l| !l.trim().is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_string)
        .collect()
}

fn help(name: &str, args: &[&str]) -> String {
    let output = Command::new(binary(name)).args(args).arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{name} {args:?} --help ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_command_line_reference_is_true() {
    let top = help("octrain", &[]);
    let mut text = String::from(
        "# Command-line reference\n\nWritten by the binaries themselves; `OCTRAIN_UPDATE_GOLDEN=1 scripts/test.sh \
         the_command_line_reference_is_true` writes it anew. Every flag of `octrain train` may stand in a TOML file \
         under the same name (`--config FILE`).\n",
    );
    text.push_str(&format!("\n## octrain\n\n```text\n{top}\n```\n"));
    let names = subcommands(&top);
    assert!(names.len() >= 10 && names.contains(&"train".into()), "{names:?}");
    for name in names {
        let of = help("octrain", &[&name]);
        text.push_str(&format!("\n## octrain {name}\n\n```text\n{of}\n```\n"));
        // Of a command that has commands of its own.
        for below in subcommands(&of) {
            let of = help("octrain", &[&name, &below]);
            text.push_str(&format!("\n## octrain {name} {below}\n\n```text\n{of}\n```\n"));
        }
    }
    text.push_str(&format!(
        "\n## octrain-coordinator\n\n```text\n{}\n```\n",
        help("octrain-coordinator", &[])
    ));
    // A default that was read from this machine's environment would differ elsewhere.
    let path = repository().join("REFERENCE.md");
    if std::env::var_os("OCTRAIN_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "REFERENCE.md has drifted from the binaries: set OCTRAIN_UPDATE_GOLDEN=1 and read the difference"
    );
}
