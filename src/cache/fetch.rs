//! Downloads: of several files of a repository, and of one file into its place.

#[cfg(feature = "hub")]
use super::{
    Cache, hub,
    listing::{self, HubFile},
    store::{Lock, file_len},
    tell_waiting,
};
use super::{CacheError, Progress, partial};
use std::path::Path;
#[cfg(feature = "hub")]
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Files of one repository on their way into its folder.
#[cfg(feature = "hub")]
pub(super) struct Fetch<'a> {
    cache: &'a Cache,
    hub: hub::Hub<'a>,
    repo: &'a str,
    pub(super) folder: PathBuf,
    /// Files of the repository, as the hub lists them now.
    pub(super) listed: Vec<HubFile>,
    /// Files of the repository, as the hub listed them at an earlier download.
    described_before: Vec<HubFile>,
    progress: &'a mut dyn Progress,
    cancel: &'a AtomicBool,
}

#[cfg(feature = "hub")]
impl<'a> Fetch<'a> {
    /// Asks the hub what the repository holds.
    pub(super) fn begin(
        cache: &'a Cache,
        repo: &'a str,
        progress: &'a mut dyn Progress,
        cancel: &'a AtomicBool,
    ) -> Result<Fetch<'a>, CacheError> {
        let hub = hub::Hub::new(&cache.settings, cancel);
        let (folder, listed) = (cache.repo_dir(repo), hub.list(repo)?);
        let described_before = listing::load(repo, &folder).unwrap_or_default();
        Ok(Fetch { cache, hub, repo, folder, listed, described_before, progress, cancel })
    }

    /// Fetches what of some files is missing, and says whether anything was. One that is here and
    /// that the hub describes as it did before is read only if every byte is to be checked.
    pub(super) fn files(
        &mut self,
        files: &[HubFile],
        is_every_byte_checked: bool,
    ) -> Result<bool, CacheError> {
        let (cancel, progress) = (self.cancel, &mut *self.progress);
        for file in files {
            if is_every_byte_checked || !self.described_before.contains(file) {
                let (path, sha256) = (self.folder.join(&file.path), file.sha256.as_deref());
                self.cache.drop_if_broken(&path, file.bytes, sha256, progress, cancel)?;
            }
        }
        listing::save(&self.folder, &self.listed, cancel)?;
        let mut is_fetched = false;
        for file in files {
            let path = self.folder.join(&file.path);
            let _lock = Lock::wait(&path, cancel, || tell_waiting(progress, &file.path))?;
            if file_len(&path) == Some(file.bytes) {
                continue;
            }
            let expected = partial::Expected { bytes: file.bytes, sha256: file.sha256.clone() };
            deliver(&path, &expected, progress, cancel, |partial, progress| {
                progress.begin(&file.path, file.bytes);
                let fetched = self.hub.download(self.repo, "main", &file.path, partial, progress);
                progress.end();
                fetched
            })?;
            is_fetched = true;
        }
        Ok(is_fetched)
    }
}

/// Has `fill` complete the partial file of `path` and commits it. Bytes of an earlier try that
/// turn out wrong are given one more chance, from the first byte.
pub(super) fn deliver(
    path: &Path,
    expected: &partial::Expected,
    progress: &mut dyn Progress,
    cancel: &AtomicBool,
    mut fill: impl FnMut(&mut partial::Partial, &mut dyn Progress) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    loop {
        let mut partial = partial::Partial::open(path, expected, cancel)?;
        if let Err(error) = fill(&mut partial, progress) {
            partial.leave();
            return Err(error);
        }
        let is_resumed = partial.is_resumed();
        match partial.commit() {
            Err(cause @ (CacheError::WrongHash { .. } | CacheError::NotGguf { .. }))
                if is_resumed =>
            {
                progress.note(&format!("{cause}: starting over"));
            }
            done => return done.map(drop),
        }
    }
}
