//! Room on disks.

use super::CliError;
use crate::model::describe::bytes;
use std::path::Path;

/// Space that is to be left on a disk: others write there, too.
const SPACE_LEFT: u64 = 16 << 20;

/// Refuses to begin what the disk has no room for, where the system tells.
///
/// # Errors
/// The disk of `output` has fewer than `needed` bytes.
pub fn check(output: &Path, needed: u64) -> Result<(), CliError> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(free) = free_bytes(folder.unwrap_or(Path::new("."))) else { return Ok(()) };
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
    fn what_no_disk_holds_is_refused() {
        let path = std::env::temp_dir().join("teff-space");
        assert!(check(&path, 1).is_ok());
        if free_bytes(&std::env::temp_dir()).is_some() {
            let error = check(&path, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("teff-space: ") && error.contains("are needed"), "{error}");
        }
    }
}
