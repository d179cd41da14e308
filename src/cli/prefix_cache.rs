//! Prefixes of earlier starts: long instructions are computed once per machine.

use super::options::parse_bytes;
use super::{CliError, note};
use crate::cache::user_folder;
use crate::engine::{DISK_TOKENS_MIN, DiskCache, Request, Runner};

/// Folder of the prefixes within the user's cache folder.
const FOLDER: &str = "prefixes";

/// Size of the cache on disk.
#[derive(clap::Args, Clone, Debug)]
pub struct PrefixCacheArgs {
    /// Disk space for what long instructions were computed to, from which later starts go on instead of
    /// computing them again; 0 keeps nothing. It lies in the cache folder, for your eyes only, and holds
    /// the instructions
    #[arg(long, value_name = "N[K|M|G]", default_value = "1G", value_parser = parse_size)]
    cache_bytes: u64,
}

/// Parses a number of bytes, which may be 0.
fn parse_size(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { parse_bytes(text) }
}

impl PrefixCacheArgs {
    /// The folder's cache; `None` if nothing is to be kept, or there is no place for it.
    pub fn disk(&self) -> Option<DiskCache> {
        let folder = user_folder::cache().ok().filter(|_| self.cache_bytes > 0);
        folder.map(|folder| DiskCache::new(&folder.join(FOLDER), self.cache_bytes))
    }

    /// The folder, made if it was not there; `None` if nothing is to be kept, or there is no place for it.
    ///
    /// # Errors
    /// The folder cannot be made.
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pub fn folder(&self) -> Result<Option<std::path::PathBuf>, CliError> {
        let cache = user_folder::cache().ok().filter(|_| self.cache_bytes > 0);
        let Some(folder) = cache.map(|cache| cache.join(FOLDER)) else { return Ok(None) };
        std::fs::create_dir_all(&folder).map_err(CliError::at(&folder))?;
        Ok(Some(folder))
    }

    /// The cache; one without a folder if nothing is to be kept, or there is no place for it.
    pub fn open(&self) -> PrefixCache {
        PrefixCache { disk: self.disk() }
    }
}

/// Prefixes that are kept between starts, if any.
pub struct PrefixCache {
    disk: Option<DiskCache>,
}

impl PrefixCache {
    /// Whether a prefix of so many tokens is worth a place.
    pub fn wants(&self, n_tokens: usize) -> bool {
        self.disk.is_some() && n_tokens >= DISK_TOKENS_MIN
    }

    /// Prepares a request that begins with a prefix of others: what an earlier start has computed of it
    /// is found by the runner then.
    pub fn fetch(&self, runner: &Runner, request: &mut Request, prefix: &[u32]) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.wants(prefix.len())) else { return };
        (request.cache_prefix, request.shared_prefix) = (true, prefix.len());
        disk.fetch(runner, prefix);
    }

    /// Keeps a prefix that the runner has computed. Where that cannot be done a note says so, as an
    /// answer does not depend on it.
    pub fn keep(&self, runner: &Runner, prefix: &[u32]) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.wants(prefix.len())) else { return };
        if let Err(error) = disk.keep(runner, prefix) {
            let error = CliError::from(error);
            note(format_args!("note: the instructions are not kept for later starts: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_kept() {
        assert_eq!(parse_size(" 0"), Ok(0));
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        assert!(parse_size("-1").is_err() && parse_size("0K").is_err());
        let none = PrefixCacheArgs { cache_bytes: 0 }.open();
        assert!(!none.wants(DISK_TOKENS_MIN));
    }
}
