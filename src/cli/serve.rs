//! `teff serve`: answers over HTTP.

use super::engine_args::{ContextArgs, EngineArgs};
use super::gpu_args::GpuArgs;
use super::options::whole_number;
use super::prefix_cache::PrefixCacheArgs;
use super::sampling::SamplingArgs;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
use super::sandbox::{self, Allowed};
#[cfg(all(feature = "sandbox", target_os = "linux"))]
use super::serve_models::Served;
use super::serve_models::{self, ServedArgs};
use super::speculate::SpeculateArgs;
use super::template_args::TemplateArgs;
use super::{CliError, interrupt, note, threads};
use crate::backend::pages::KvType;
#[cfg(feature = "otlp")]
use crate::serve::Traces;
use crate::serve::{Log, ServeOptions, Server};
#[cfg(feature = "tls")]
use crate::serve::{Tls, TlsError};
use serde_json::Value as Json;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Environment variable of a key.
const KEY_VARIABLE: &str = "TEFF_API_KEY";
/// Bytes of a file of keys or certificates, most.
const FILE_BYTES: u64 = 1 << 20;

/// `teff serve`
#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub(super) models: ServedArgs,
    /// Answer requests for any model's name with the one that is loaded
    #[arg(long)]
    any_model: bool,
    /// Address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Server")]
    host: String,
    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080, help_heading = "Server")]
    port: u16,
    /// File with API keys, one a line, of which each request needs one; the variable TEFF_API_KEY may
    /// hold another
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    api_key_file: Option<PathBuf>,
    /// File with the server's certificate, and those that lead to a known one, as PEM: answer by HTTPS
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Server")]
    tls_cert: Option<PathBuf>,
    /// File with the certificate's private key, as PEM
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Server")]
    tls_key: Option<PathBuf>,
    /// Send a trace of each request to this collector of OpenTelemetry (OTLP over HTTP), as in
    /// http://localhost:4318; the variables OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS count, too
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    otlp: Option<String>,
    /// Listen beyond this machine without a key
    #[arg(long, help_heading = "Server")]
    no_auth: bool,
    /// Name of this server, beside those of the machine itself, that requests may be for. May be given
    /// several times
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    allowed_host: Vec<String>,
    /// Origin whose pages may ask, as in https://example.org. May be given several times
    #[arg(long, value_name = "ORIGIN", help_heading = "Server")]
    cors_origin: Vec<String>,
    /// Take names of control tokens in prompts of raw completions as such, where a request does not say by
    /// `parse_special`
    #[arg(long, help_heading = "Server")]
    parse_special: bool,
    /// Requests that are answered at a time
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Server",
        value_parser = whole_number(1..=256_usize))]
    pub(super) parallel: usize,
    /// Requests that wait for them; more are refused
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Server",
        value_parser = whole_number(0..=1024_usize))]
    max_queue: usize,
    /// Seconds that requests get to end when the server is told to
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Server",
        value_parser = whole_number(0..=86_400_u64))]
    drain: u64,
    /// Tell at /slots how many requests run
    #[arg(long, help_heading = "Server")]
    slots: bool,
    /// Give up, by Landlock and before models are loaded, what answers do not need: other files than the models
    /// and the cache of instructions, other programs, connections to elsewhere (but those of --otlp). Not with
    /// layers on a GPU, whose drivers need more
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    #[arg(long, help_heading = "Server")]
    sandbox: bool,
    /// Write no line for each request
    #[arg(long, help_heading = "Server")]
    no_log: bool,
    /// Write prompts into those lines
    #[arg(long, conflicts_with = "no_log", help_heading = "Server")]
    log_prompts: bool,
    #[command(flatten)]
    pub(super) prefixes: PrefixCacheArgs,
    #[command(flatten)]
    pub(super) template: TemplateArgs,
    #[command(flatten)]
    pub(super) context: ContextArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) gpu: GpuArgs,
    #[command(flatten)]
    pub(super) speculate: SpeculateArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
}

/// Serves until it is told to end.
pub fn serve(args: &ServeArgs) -> Result<(), CliError> {
    args.sampling.params()?;
    args.engine.options(KvType::F16)?;
    let keys = keys(args)?;
    let addresses = (args.host.as_str(), args.port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    let address = address.ok_or_else(|| {
        CliError::usage(format!("--host {}: there is no such address", args.host))
    })?;
    if !address.ip().is_loopback() && keys.is_empty() && !args.no_auth {
        return Err(CliError::usage(format!(
            "--host {} is open to others: --api-key-file or the variable {KEY_VARIABLE} give keys, \
             --no-auth does without",
            args.host
        )));
    }
    if let Some(origin) = args.cors_origin.iter().find(|origin| !is_origin(origin)) {
        return Err(CliError::usage(format!(
            "--cors-origin {origin}: must be * or an origin, as in https://example.org"
        )));
    }
    let options = options(args, keys)?;
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    if args.sandbox && args.gpu.asks_for_layers() {
        return Err(CliError::usage(
            "--sandbox is not for layers on a GPU (--gpu-layers), whose drivers need more",
        ));
    }
    let scheme = scheme(&options);
    let source = args.template.source()?;
    let models = args.models.served()?;
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    give_up_rights(args, &models)?;
    let cannot = |error| CliError::failed(format!("cannot listen at {address}: {error}"));
    let server = Server::bind(address, options).map_err(cannot)?;
    let bound = server.address().map_err(cannot)?;
    let handle = server.handle();
    // Probes are answered while the model is loaded.
    std::thread::scope(|scope| {
        // The server watches for it, too, once it runs.
        let on_term = handle.clone();
        interrupt::instead_of_term(move || on_term.drain());
        let served = threads::spawn(scope, move || server.run())?;
        let loaded = serve_models::offer(args, models, source, &handle);
        let on_interrupt = handle.clone();
        let guard = interrupt::instead(move || on_interrupt.drain());
        match &loaded {
            Ok(()) => note(format_args!("listening at {scheme}://{}", shown(bound, &args.host))),
            Err(_) => handle.drain(),
        }
        let served = served.join();
        drop(guard);
        loaded?;
        served.map_err(|_| CliError::failed("the server's thread died"))?.map_err(cannot)
    })
}

/// Restricts this thread, and those that it will start, to what the models need.
#[cfg(all(feature = "sandbox", target_os = "linux"))]
fn give_up_rights(args: &ServeArgs, models: &[Served]) -> Result<(), CliError> {
    if !args.sandbox {
        return Ok(());
    }
    let mut allowed = Allowed { port: args.port, ..Allowed::default() };
    allowed.read = args.models.files(models);
    allowed.read.extend(args.speculate.draft_file()?);
    allowed.write.extend(args.prefixes.folder()?);
    match sandbox::restrict(&allowed)? {
        true => {
            note(format_args!("sandboxed: no files but the models, no connections, no programs"))
        }
        false => note(format_args!(
            "sandboxed: no files but the models, no programs; this kernel leaves connections or signals"
        )),
    }
    Ok(())
}

/// The address as people type it.
fn shown(bound: SocketAddr, host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(_) => bound.to_string(),
        Err(_) => format!("{host}:{}", bound.port()),
    }
}

/// Whether a text is an origin as browsers tell it, or means all of them.
fn is_origin(text: &str) -> bool {
    let is_word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let is_host = |host: &str| match host.rsplit_once(':') {
        _ if host.starts_with('[') => host.contains(']') && is_word(host, b"[]:."),
        Some((host, port)) => is_word(host, b"-._") && port.parse::<u16>().is_ok(),
        None => is_word(host, b"-._"),
    };
    match text.split_once("://") {
        Some((scheme, host)) => is_word(scheme, b"+-.") && is_host(host),
        None => text == "*" || text == "null",
    }
}

fn scheme(options: &ServeOptions) -> &'static str {
    #[cfg(feature = "tls")]
    if options.tls.is_some() {
        return "https";
    }
    let _ = options;
    "http"
}

/// The certificate and its key.
#[cfg(feature = "tls")]
fn tls(args: &ServeArgs) -> Result<Option<Tls>, CliError> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let texts = (read_text(certificate)?, read_text(key)?);
    let tls = Tls::from_pem(texts.0.as_bytes(), texts.1.as_bytes()).map_err(|error| {
        let path = if matches!(error, TlsError::Key) { key } else { certificate };
        CliError::failed(format!("{}: {error}", path.display()))
    })?;
    Ok(Some(tls))
}

/// Where traces go.
#[cfg(feature = "otlp")]
fn traces(args: &ServeArgs) -> Result<Option<Traces>, CliError> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let Some(collector) = args.otlp.clone().or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
    else {
        return Ok(None);
    };
    let headers = variable("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
    let traces = Traces::to(&collector, &headers);
    Ok(Some(traces.map_err(|error| CliError::failed(format!("traces: {error}")))?))
}

fn options(args: &ServeArgs, keys: Vec<Vec<u8>>) -> Result<ServeOptions, CliError> {
    let mut hosts = args.allowed_host.clone();
    hosts.extend(args.host.parse::<IpAddr>().is_err().then(|| args.host.clone()));
    let log = |line: &Json| note(format_args!("{line}"));
    Ok(ServeOptions {
        keys,
        hosts,
        origins: args.cors_origin.clone(),
        n_running_max: args.parallel,
        n_waiting_max: args.max_queue,
        drain: Duration::from_secs(args.drain),
        parse_special: args.parse_special,
        any_model: args.any_model,
        idle: args.models.idle,
        memory_bytes: args.models.memory,
        slots: args.slots,
        log: (!args.no_log).then(|| Box::new(log) as Log),
        log_prompts: args.log_prompts,
        #[cfg(feature = "tls")]
        tls: tls(args)?,
        #[cfg(feature = "otlp")]
        traces: traces(args)?,
        ..ServeOptions::default()
    })
}

/// Keys of the file and of the environment.
fn keys(args: &ServeArgs) -> Result<Vec<Vec<u8>>, CliError> {
    let mut keys = Vec::new();
    if let Some(path) = &args.api_key_file {
        let text = read_text(path)?;
        let lines = text.lines().map(str::trim);
        let given = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(given.map(|line| line.as_bytes().to_vec()));
        if keys.is_empty() {
            return Err(CliError::failed(format!("{}: has no key", path.display())));
        }
    }
    let variable = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.trim().is_empty());
    keys.extend(variable.map(|key| key.trim().as_bytes().to_vec()));
    Ok(keys)
}

/// The text of a small file.
fn read_text(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(CliError::at(path))?;
    file.take(FILE_BYTES).read_to_string(&mut text).map_err(CliError::at(path))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_tell() {
        for origin in
            ["*", "null", "https://example.org", "http://localhost:3000", "http://[::1]:80"]
        {
            assert!(is_origin(origin), "{origin}");
        }
        for other in ["nonsense", "", "https://", "https://a/b", "https://a:b", "://a", "a b://c"] {
            assert!(!is_origin(other), "{other}");
        }
    }
}
