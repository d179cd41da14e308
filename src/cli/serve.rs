//! `teff serve`: answers over HTTP.

use super::prefix_cache::PrefixCacheArgs;
use super::options::{ContextArgs, EngineArgs, ModelArgs, tokenizer_of, whole_number};
use super::sampling::SamplingArgs;
use super::speculate::SpeculateArgs;
use super::template_args::TemplateArgs;
use super::{CliError, interrupt, note, threads};
use crate::backend::pages::KvType;
use crate::engine::{EngineOptions, Model, Runner};
use crate::serve::{Loaded, Log, ModelOptions, ServeOptions, Server, ServerHandle};
use crate::text::Tokenizer;
use serde_json::{Map, Value as Json, json};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Environment variable of a key.
const KEY_VARIABLE: &str = "TEFF_API_KEY";
/// Bytes of a file of keys, most.
const KEY_FILE_BYTES: u64 = 1 << 20;

/// `teff serve`
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Name by which clients ask for the model [default: the file's]; others are its aliases
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
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
    /// Requests that are answered at a time
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Server",
        value_parser = whole_number(1..=256_usize))]
    parallel: usize,
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
    /// Write no line for each request
    #[arg(long, help_heading = "Server")]
    no_log: bool,
    /// Write prompts into those lines
    #[arg(long, conflicts_with = "no_log", help_heading = "Server")]
    log_prompts: bool,
    #[command(flatten)]
    prefixes: PrefixCacheArgs,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
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
    let source = args.template.source()?;
    let options = options(args, keys);
    let cannot = |error| CliError::failed(format!("cannot listen at {address}: {error}"));
    let server = Server::bind(address, options).map_err(cannot)?;
    let bound = server.address().map_err(cannot)?;
    let handle = server.handle();
    // Probes are answered while the model is loaded.
    std::thread::scope(|scope| {
        let served = threads::spawn(scope, move || server.run())?;
        let loaded = load(args, source, &handle);
        let on_interrupt = handle.clone();
        let guard = interrupt::instead(move || on_interrupt.drain());
        match &loaded {
            Ok(()) => note(format_args!("listening at http://{}", shown(bound, &args.host))),
            Err(_) => handle.drain(),
        }
        let served = served.join();
        drop(guard);
        loaded?;
        served.map_err(|_| CliError::failed("the server's thread died"))?.map_err(cannot)
    })
}

/// The address as people type it.
fn shown(bound: SocketAddr, host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(_) => bound.to_string(),
        Err(_) => format!("{host}:{}", bound.port()),
    }
}

fn options(args: &ServeArgs, keys: Vec<Vec<u8>>) -> ServeOptions {
    let mut hosts = args.allowed_host.clone();
    hosts.extend(args.host.parse::<IpAddr>().is_err().then(|| args.host.clone()));
    let log = |line: &Json| note(format_args!("{line}"));
    ServeOptions {
        keys,
        hosts,
        origins: args.cors_origin.clone(),
        n_running_max: args.parallel,
        n_waiting_max: args.max_queue,
        drain: Duration::from_secs(args.drain),
        any_model: args.any_model,
        slots: args.slots,
        log: (!args.no_log).then(|| Box::new(log) as Log),
        log_prompts: args.log_prompts,
    }
}

/// Keys of the file and of the environment.
fn keys(args: &ServeArgs) -> Result<Vec<Vec<u8>>, CliError> {
    let mut keys = Vec::new();
    if let Some(path) = &args.api_key_file {
        let text = read_keys(path)?;
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

fn read_keys(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(CliError::at(path))?;
    file.take(KEY_FILE_BYTES).read_to_string(&mut text).map_err(CliError::at(path))?;
    Ok(text)
}

/// Loads the model and hands it to the server.
fn load(args: &ServeArgs, source: Option<String>, handle: &ServerHandle) -> Result<(), CliError> {
    let model = args.engine.open(&args.model)?;
    let mut options = ModelOptions::default();
    let mut names = args.alias.iter().cloned();
    options.id = names.next().unwrap_or_default();
    options.aliases = names.collect();
    options.sampling = args.sampling.params_of(model.file())?;
    options.fixed_seed = !args.sampling.draws_seed();
    options.speculation = args.speculate.speculation();
    options.disk = args.prefixes.disk();
    // Repacking only pays off in token-by-token decoding.
    let encoder = EngineOptions { repack: false, ..args.engine.options(KvType::F32)? };
    let n_ctx = args.context.ctx.map(|n| n as usize);
    options.encoder = Some(EngineOptions { n_ctx, ..encoder });
    if !model.spec().generates() {
        let tokenizer = Arc::new(tokenizer_of(&model)?);
        let n_ctx = n_ctx.unwrap_or(model.spec().n_ctx_train);
        let loaded = Loaded::new(model, tokenizer, None, (n_ctx, 0), options);
        // What cannot be had is told now, not at the first request.
        loaded.encoder().map_err(|fault| CliError::failed(fault.to_string()))?;
        handle.add(loaded);
        return Ok(());
    }
    let at = CliError::of_model(model.path());
    let n_rows = args.parallel.max(args.speculate.n_rows());
    let (tokenizer, engine) = args.engine.ready(&model, &args.context, KvType::F16, n_rows)?;
    let tokenizer = Arc::new(tokenizer);
    options.variables = variables(args, &model, &tokenizer, source.as_deref())?;
    options.template = source;
    let sizes = (engine.n_ctx(), engine.decoder().kv().kv_bytes_max());
    let runner = Runner::start(engine, Some(tokenizer.clone()), args.parallel).map_err(at)?;
    handle.add(Loaded::new(model, tokenizer, Some(runner), sizes, options));
    Ok(())
}

/// Variables of the template that the options set.
fn variables(
    args: &ServeArgs,
    model: &Model,
    tokenizer: &Tokenizer,
    source: Option<&str>,
) -> Result<Map<String, Json>, CliError> {
    let at = CliError::of_model(model.path());
    let prompter = args.template.prompter(tokenizer, source).map_err(at)?;
    if !prompter.has_template() {
        note(format_args!("note: the model has no chat template: it continues texts only"));
        return Ok(Map::new());
    }
    let mut input = json!({
        "messages": [{ "role": "user", "content": "x" }], "add_generation_prompt": true,
    });
    let format = args.template.format(model, source, tokenizer);
    args.template.complete(&prompter, format, &mut input)?;
    let mut variables = input.as_object().cloned().unwrap_or_default();
    variables.retain(|name, _| name != "messages" && name != "add_generation_prompt");
    Ok(variables)
}
