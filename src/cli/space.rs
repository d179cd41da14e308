//! Outputs, before work for them begins: whether they can be written, and room on disks.

use super::{CliError, interrupt};
use crate::model::describe::bytes;
use gguf_rs_lite::{GgufFile, PartFile};
use std::path::{Path, PathBuf};

/// Space that is to be left on a disk: others write there, too.
const SPACE_LEFT: u64 = 16 << 20;

/// Ending of the name beside an output under which stopped work leaves what it has.
pub const UNFINISHED: &str = ".unfinished";

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A place beside an output, whose name it goes on: what is kept of work that is not finished.
pub fn beside(output: &Path, ending: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Refuses an output that would take the place of an input, or cannot be written.
///
/// # Errors
/// It leads to one of the inputs, which are files and models, it names a folder, its own is not
/// there, or [`PartFile::create`] fails.
pub fn check_output<'p>(
    output: &Path,
    inputs: impl IntoIterator<Item = &'p Path>,
    models: &[&GgufFile],
) -> Result<(), CliError> {
    check_name(output)?;
    let real = output.canonicalize().ok();
    let is_output = |path: &Path| real.is_some() && path.canonicalize().ok() == real;
    if inputs.into_iter().any(is_output) || models.iter().any(|model| model.is_at(output)) {
        return Err(CliError::failed(format!("{}: is the input too", output.display())));
    }
    // What a link leads to is anywhere.
    let folder = folder_of(output);
    if !output.is_symlink() && !folder.is_dir() {
        return Err(CliError::failed(format!("{}: there is no such folder", folder.display())));
    }
    // Made and removed: better now than behind hours of work. Ctrl-C leaves nothing between the two.
    Ok(interrupt::whole(|| PartFile::create(output).map(drop))?)
}

/// Refuses the name of a folder, which paths lose.
///
/// # Errors
/// The name ends in a separator.
pub fn check_name(output: &Path) -> Result<(), CliError> {
    let last = output.as_os_str().as_encoded_bytes().last();
    match last.is_some_and(|&byte| std::path::is_separator(char::from(byte))) {
        true => Err(CliError::failed(format!("{}: names a folder, no file", output.display()))),
        false => Ok(()),
    }
}

/// Refuses to begin what the disk has no room for, where the system tells.
///
/// # Errors
/// The disk of `output` has fewer than `needed` bytes.
pub fn check(output: &Path, needed: u64) -> Result<(), CliError> {
    // The disk of what a link leads to.
    let real = output.canonicalize();
    let output_dir = folder_of(real.as_deref().unwrap_or(output));
    let Some(free) = free_bytes(output_dir) else { return Ok(()) };
    if needed.saturating_add(SPACE_LEFT) > free {
        let (needed, free) = (bytes(needed), bytes(free));
        return Err(CliError::failed(format!(
            "{}: {needed} are needed, and the disk has {free} left",
            output.display()
        )));
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_no_inputs_and_have_a_folder() {
        let folder = std::env::temp_dir().join(format!("teff-output-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (input, output) = (folder.join("in"), folder.join("out"));
        std::fs::write(&input, "x").unwrap();
        let check = |path: &Path| check_output(path, [&input, &output].map(|p| p.as_path()), &[]);
        check(&output).unwrap();
        assert!(!output.exists());
        let error = |path: &Path| check(path).unwrap_err().to_string();
        assert!(
            error(&folder.join("../").join(folder.file_name().unwrap()).join("in"))
                .ends_with("in: is the input too")
        );
        assert!(error(&folder.join("no/x")).ends_with("no: there is no such folder"));
        assert!(error(&folder).ends_with(": is a folder"));
        assert!(error(&folder.join("new/")).ends_with("new/: names a folder, no file"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_no_disk_holds_is_refused() {
        let path = std::env::temp_dir().join("teff-space");
        assert!(check(&path, 1).is_ok());
        if free_bytes(&std::env::temp_dir()).is_some() {
            let error = check(&path, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("teff-space: ") && error.contains("are needed"), "{error}");
        }
    }
}
