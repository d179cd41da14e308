//! Folders of the user that teff keeps things in, where the platform prescribes them.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use super::CacheError;

/// The cache folder: `TEFF_CACHE`, or teff's in `XDG_CACHE_HOME`, `~/.cache`, `~/Library/Caches`,
/// `LOCALAPPDATA`. What is lost there can be had again.
///
/// # Errors
/// [`CacheError::NoCacheDir`]: nothing says where it is.
pub fn cache() -> Result<PathBuf, CacheError> {
    let own = set("TEFF_CACHE");
    let of_system = || of("XDG_CACHE_HOME", ".cache", "Library/Caches", "LOCALAPPDATA");
    own.or_else(of_system).ok_or(CacheError::NoCacheDir)
}

/// The folder of what the user has made: teff's in `XDG_DATA_HOME`, `~/.local/share`,
/// `~/Library/Application Support`, `APPDATA`; `None` if nothing says where it is.
pub fn data() -> Option<PathBuf> {
    of("XDG_DATA_HOME", ".local/share", "Library/Application Support", "APPDATA")
}

/// Value of a variable of the environment, unless it is empty.
fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}

/// teff's folder in that of the variable `xdg`, or else where Unix, macOS or Windows has such.
fn of(xdg: &str, unix: &str, macos: &str, windows: &str) -> Option<PathBuf> {
    let parent = set(xdg).filter(|folder| folder.is_absolute()).or_else(|| {
        if cfg!(windows) {
            return set(windows);
        }
        let below = if cfg!(target_os = "macos") { macos } else { unix };
        set("HOME").map(|home| home.join(below))
    });
    parent.map(|folder| folder.join("teff"))
}
