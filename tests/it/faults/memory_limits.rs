//! Limits of memory: each want of it is an error that names what it was for.

use super::*;

/// More than any run of the tiny model needs, in KiB.
const ENOUGH_KIB: u64 = 2 << 20;
/// Runs between a limit that is too small and one that is not.
const STEPS: u64 = 25;

/// The program with so many KiB of address space.
fn limited(kib: u64, args: &[&str], stdin: &str) -> Output {
    use std::io::Write;
    let program = program();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v {kib}; exec \"$@\""), "sh"]);
    shell.arg(program.get_program()).args(program.get_args()).args(args);
    for (key, value) in program.get_envs() {
        value.map(|value| shell.env(key, value));
    }
    let pipe = std::process::Stdio::piped;
    let mut child = shell.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    // A program that is at its end reads no more.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The smallest limit, to 64 KiB, below `most` under which `is_enough`.
fn smallest(most: u64, is_enough: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while high - low > 64 {
        let middle = (low + high) / 2;
        if is_enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// Under limits from where the program begins at all to where it has enough, it gives what it
/// gives without one, or one line that says that memory is short.
fn sweep(args: &[&str], stdin: &str) {
    let whole = limited(ENOUGH_KIB, args, stdin);
    assert!(whole.status.success(), "{args:?}: {}", stderr(&whole));
    // Below, the system's loader or the runtime of the language fails, before any of our code.
    let begins = |kib| limited(kib, &["--version"], "").status.success();
    let first = smallest(ENOUGH_KIB, begins);
    let enough = smallest(ENOUGH_KIB, |kib| limited(kib, args, stdin).status.success());
    // Beyond, larger buffers are made, for which there may be no memory.
    let last = enough.max(first) + 400_000;
    let near = (0..=STEPS).map(|i| first + (enough.max(first) - first) * i / STEPS);
    let far = (0..=STEPS).map(|i| enough + (last - enough) * i / STEPS);
    let mut n_short = 0;
    for kib in near.chain(far) {
        let output = limited(kib, args, stdin);
        let told = stderr(&output);
        match output.status.code() {
            Some(0) => assert!(output.stdout == whole.stdout, "{args:?}, {kib} KiB: {told}"),
            Some(1) => {
                let is_one_line = told.starts_with("error: ") && told.lines().count() == 1;
                assert!(is_one_line, "{args:?}, {kib} KiB: {told}");
                // A budget is a share of the memory that is left.
                let is_named = told.contains("memory") || told.contains("budget");
                assert!(is_named, "{args:?}, {kib} KiB: {told}");
                n_short += 1;
            }
            // The C library ends the process where it has no memory for a thread's own variables.
            None if told.starts_with("Fatal glibc error: ") && told.contains("of memory") => {}
            _ => panic!("{args:?}, {kib} KiB: {:?} {told}", output.status),
        }
    }
    assert!(n_short > 0, "{args:?}: no limit was too small");
}

#[test]
fn little_address_space_is_an_error_and_no_abort() {
    let folder = Folder::new("ulimit");
    let model = folder.tiny_with("m", vec![]);
    let model = text(&model);
    sweep(&["run", model, "--raw", "-p", "x", "-n", "3", "-t", "2", "--temp", "0"], "");
    sweep(&["embed", model, "-t", "2"], "one text\nanother\n");
}

#[test]
fn a_refused_buffer_is_named() {
    let folder = Folder::new("ulimit-named");
    // Activations and logits of all tokens at a time: some hundred MB.
    let keys = vec![("llama.context_length", OwnedValue::U32(1 << 20))];
    let model = folder.tiny_with("m", keys);
    let (tokens, out) = (vec!["1"; 60_000].join(","), folder.0.join("out"));
    let args = ["logits", text(&model), "-t", "1", "--batch", "60000", "-o", text(&out)];
    let output = limited(150_000, &[&args[..], &["--tokens", &tokens]].concat(), "");
    let told = error_of(&output, 1);
    assert!(told.contains("not enough memory: ") && told.contains(" bytes for "), "{told}");
}
