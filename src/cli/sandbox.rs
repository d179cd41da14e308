//! The sandbox of `teff serve --sandbox`: Linux's Landlock takes from the process what answering needs not.

use super::CliError;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::path::PathBuf;

/// Newest version of Landlock whose rights are taken: that of Linux 6.12.
const NEWEST: ABI = ABI::V6;
/// What the system tells of itself: memory, CPUs, limits of containers, random numbers.
const SYSTEM: [&str; 5] = ["/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/random"];

/// Rights that stay.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Files, and folders with all that is in them, that may be read.
    pub read: Vec<PathBuf>,
    /// Folders in which files may be made, written and removed, too; each has to be there.
    pub write: Vec<PathBuf>,
    /// Port at which the process may listen; 0 for a free one.
    pub port: u16,
}

/// Restricts the calling thread, and all that it starts from now on, to what is allowed: no other file is read or
/// written, no program started, no connection made, no other port opened. Nothing gives it back.
///
/// Returns whether the kernel knows all of these restrictions; files are restricted in any case.
///
/// # Errors
/// The kernel has no Landlock, or refuses.
pub fn restrict(allowed: &Allowed) -> Result<bool, CliError> {
    let status = rules(allowed).map_err(|error| {
        CliError::failed(format!("--sandbox: this system does not restrict files: {error}"))
    })?;
    Ok(status == RulesetStatus::FullyEnforced)
}

fn rules(allowed: &Allowed) -> Result<RulesetStatus, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let read = path_beneath_rules(allowed.read.iter().map(PathBuf::as_path), reading);
    let system = path_beneath_rules(SYSTEM, reading);
    let writing = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    let write = path_beneath_rules(allowed.write.iter().map(PathBuf::as_path), writing);
    let restricted = Ruleset::default()
        // Without these there is no sandbox to speak of; newer rights are taken where the kernel knows them.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(read)?
        .add_rules(system)?
        .add_rules(write)?
        .add_rule(NetPort::new(allowed.port, AccessNet::BindTcp))?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::thread;

    /// Landlock holds for a thread and what it starts, so that of a test may have its own.
    #[test]
    fn what_is_not_allowed_is_refused() {
        let folder = std::env::temp_dir().join(format!("teff-sandbox-{}", std::process::id()));
        let (read, write, other) =
            (folder.join("read"), folder.join("write"), folder.join("other"));
        for folder in [&read, &write, &other] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("file"), "text").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let allowed = Allowed { read: vec![read.clone()], write: vec![write.clone()], port: 0 };

        let folders = (read.clone(), write.clone(), other.clone());
        let inside = thread::spawn(move || {
            let (read, write, other) = folders;
            let whole = match restrict(&allowed) {
                Ok(whole) => whole,
                Err(error) => {
                    let wanted = std::env::var("TEFF_REQUIRE").unwrap_or_default();
                    let is_required =
                        wanted.split(',').any(|word| matches!(word, "all" | "sandbox"));
                    assert!(!is_required, "TEFF_REQUIRE={wanted}, but {error}");
                    eprintln!("skipped: {error} (TEFF_REQUIRE=sandbox makes this a failure)");
                    return true;
                }
            };
            assert_eq!(fs::read_to_string(read.join("file")).unwrap(), "text");
            assert!(fs::write(read.join("file"), "x").is_err());
            assert!(
                fs::read(other.join("file")).is_err() && fs::write(other.join("new"), "x").is_err()
            );
            fs::write(write.join("new"), "x").unwrap();
            fs::rename(write.join("new"), write.join("newer")).unwrap();
            fs::remove_file(write.join("newer")).unwrap();
            // Were it allowed, `false` would be what this process is.
            let refused = Command::new("false").exec();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(fs::read_to_string("/proc/meminfo").is_ok());
            if whole {
                assert!(TcpStream::connect(address).is_err());
                assert!(TcpListener::bind("127.0.0.1:0").is_ok());
                assert!(TcpListener::bind("127.0.0.1:47011").is_err());
            }
            // What it starts has no more than it has.
            thread::spawn(move || fs::read(other.join("file")).is_err()).join().unwrap()
        });
        assert!(inside.join().unwrap());
        assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "text");
        assert!(TcpStream::connect(address).is_ok());
        fs::remove_dir_all(folder).unwrap();
    }
}
