//! The models of `teff serve`: which there are, and how one is loaded.

use super::options::{MetadataArgs, ModelParser, parse_bytes, resolve, tokenizer_of};
use super::serve::ServeArgs;
use super::{CliError, note};
use crate::backend::pages::KvType;
use crate::cache::ModelRef;
use crate::engine::{EngineOptions, Model, Runner};
use crate::serve::{Loaded, ModelOptions, Offer, ServerHandle, duration};
use crate::text::{Tokenizer, builtin_names};
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Models of a server.
#[derive(clap::Args, Clone, Debug)]
pub struct ServedArgs {
    /// A GGUF file, an alias from `teff list`, or hf:owner/repo[:file or quant]
    #[arg(value_name = "[NAME=]MODEL", value_parser = NamedParser)]
    positional: Option<Named>,
    /// A model, as MODEL; may be given several times: the first is loaded at the start, others when they
    /// are asked for. Without any the default model
    #[arg(short, long, value_name = "[NAME=]MODEL", value_parser = NamedParser)]
    model: Vec<Named>,
    /// Folder whose GGUF files are models, too, by their names without the ending; each is loaded when
    /// it is asked for
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Name by which clients ask for the first model [default: the file's]; others are its aliases
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// A LoRA adapter for the first model, as a model of its own: MODEL:NAME. May be given several times
    #[arg(long, value_name = "NAME=FILE[:SCALE]", value_parser = parse_adapter)]
    adapter: Vec<(String, OsString)>,
    /// Unload models that nobody has asked for so long, as in 5m, until somebody does [default: only
    /// when another needs the room]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub idle: Option<Duration>,
    /// Memory that loaded models may take together, as in 8G [default: what the machine has]
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_bytes)]
    pub memory: Option<u64>,
    #[command(flatten)]
    metadata: MetadataArgs,
}

/// A model with the name that it gets.
#[derive(Clone, Debug)]
struct Named {
    name: Option<String>,
    model: ModelRef,
}

/// Parses `[NAME=]MODEL`.
#[derive(Clone, Debug)]
struct NamedParser;

impl clap::builder::TypedValueParser for NamedParser {
    type Value = Named;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Named, clap::Error> {
        let whole = value.to_str().filter(|_| !Path::new(value).exists());
        let named = whole.and_then(|text| text.split_once('='));
        let named = named.filter(|(name, _)| !name.is_empty() && !name.contains(['/', '\\']));
        let (name, model) = match named {
            Some((name, model)) => (Some(name.to_owned()), OsStr::new(model)),
            None => (None, value),
        };
        Ok(Named { name, model: ModelParser.parse_ref(command, arg, model)? })
    }
}

/// Parses `NAME=FILE[:SCALE]`.
fn parse_adapter(text: &str) -> Result<(String, OsString), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), file.into()))
        }
        _ => Err("must be NAME=FILE or NAME=FILE:SCALE".into()),
    }
}

/// Parses a time.
fn parse_time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "must be a time, as in 90s, 5m or 1h".into())
}

/// A model that is to be served.
#[derive(Clone, Debug)]
pub struct Served {
    id: String,
    aliases: Vec<String>,
    path: PathBuf,
    adapters: Vec<OsString>,
}

impl ServedArgs {
    /// All models, the first of which is loaded at the start unless they are only those of a folder.
    ///
    /// # Errors
    /// A model is not there, or two have one name.
    pub fn served(&self) -> Result<Vec<Served>, CliError> {
        let mut all = Vec::new();
        let named: Vec<Named> = self.positional.iter().chain(&self.model).cloned().collect();
        let default = || vec![Named { name: None, model: ModelRef::default() }];
        let named = if named.is_empty() && self.models.is_none() { default() } else { named };
        for (i, Named { name, model }) in named.into_iter().enumerate() {
            let path = resolve(&model)?;
            let mut names = if i == 0 { self.alias.clone() } else { Vec::new() };
            names.splice(0..0, name);
            let own = if names.is_empty() { id_of(&path) } else { names.remove(0) };
            if !matches!(model, ModelRef::Path(_)) {
                names.push(model.to_string());
            }
            all.push(Served { id: own, aliases: names, path, adapters: Vec::new() });
        }
        for (name, file) in &self.adapter {
            let Some(first) = all.first() else {
                return Err(CliError::usage("--adapter needs a model that it is for"));
            };
            let id = format!("{}:{name}", first.id);
            let (path, adapters) = (first.path.clone(), vec![file.clone()]);
            all.push(Served { id, aliases: Vec::new(), path, adapters });
        }
        if let Some(folder) = &self.models {
            all.extend(of_folder(folder)?);
        }
        let mut names = HashSet::new();
        for name in all.iter().flat_map(|served| std::iter::once(&served.id).chain(&served.aliases))
        {
            if !names.insert(name) {
                return Err(CliError::usage(format!("two models have the name `{name}`")));
            }
        }
        match all.is_empty() {
            true => Err(CliError::usage("--models: the folder has no GGUF file")),
            false => Ok(all),
        }
    }

    /// Files, and folders of files, that loading these models reads.
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pub fn files(&self, models: &[Served]) -> Vec<PathBuf> {
        // The parts of a split file lie beside the first.
        let of_model = |model: &Served| match model.path.parent() {
            Some(folder) if model.path.to_string_lossy().contains("-00001-of-") => {
                // What is beside a file without a folder is where the program runs.
                let here = folder.as_os_str().is_empty();
                if here { PathBuf::from(".") } else { folder.to_owned() }
            }
            _ => model.path.clone(),
        };
        let adapters = models.iter().flat_map(|model| &model.adapters);
        let adapters = adapters.map(|given| super::engine_args::adapter_of(given).0);
        models.iter().map(of_model).chain(adapters).chain(self.models.clone()).collect()
    }

    /// Whether a model was named, not a folder alone.
    fn names_one(&self) -> bool {
        self.positional.is_some() || !self.model.is_empty() || self.models.is_none()
    }
}

/// The name of a model's file, without the ending, and without the number of the first part of a split one.
fn id_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match stem.split_once("-00001-of-") {
        Some((id, _)) => id.to_owned(),
        None => stem,
    }
}

/// The models of a folder, by their names.
fn of_folder(folder: &Path) -> Result<Vec<Served>, CliError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(CliError::at(folder))? {
        let path = entry.map_err(CliError::at(folder))?.path();
        let is_gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_part = stem.contains("-of-") && !stem.contains("-00001-of-");
        // What sees images is no model of its own.
        if is_gguf && !is_part && !stem.starts_with("mmproj") {
            let (aliases, adapters) = (Vec::new(), Vec::new());
            found.push(Served { id: id_of(&path), aliases, path, adapters });
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Offers the models to the server, loads the first, and has the server say that it is ready.
///
/// # Errors
/// The first model cannot be loaded.
pub fn offer(
    args: &ServeArgs,
    served: Vec<Served>,
    source: Option<String>,
    handle: &ServerHandle,
) -> Result<(), CliError> {
    let shared = Arc::new((args.clone(), source));
    let first = served.first().cloned().filter(|_| args.models.names_one());
    for one in served {
        handle.offer(offer_of(args, one, shared.clone()));
    }
    if let Some(first) = first {
        let loaded = load(args, shared.1.as_deref(), &first, true)?;
        handle.put(&first.id, loaded);
    }
    handle.ready();
    Ok(())
}

fn offer_of(args: &ServeArgs, served: Served, shared: Arc<(ServeArgs, Option<String>)>) -> Offer {
    let metadata = std::fs::metadata(&served.path).ok();
    let (id, aliases) = (served.id.clone(), served.aliases.clone());
    let loader = move |whole: bool| {
        let (args, source) = &*shared;
        load(args, source.as_deref(), &served, whole).map_err(|error| error.to_string())
    };
    let mut offer = Offer::new(id, Box::new(loader));
    offer.aliases = aliases;
    if let Some(metadata) = metadata {
        offer.file_bytes = metadata.len();
        let made = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        offer.created = made.map_or(offer.created, |time| time.as_secs());
    }
    // The file's pages, and the copy that decoding reads.
    offer.memory_bytes = offer.file_bytes * if args.engine.repacks() { 2 } else { 1 };
    offer
}

/// Loads a model, whole or as far as it describes itself.
fn load(
    args: &ServeArgs,
    source: Option<&str>,
    served: &Served,
    whole: bool,
) -> Result<Loaded, CliError> {
    let model = args.engine.open_with(&args.models.metadata, &served.path, &served.adapters)?;
    let mut options = ModelOptions {
        id: served.id.clone(),
        aliases: served.aliases.clone(),
        template: source.map(str::to_owned),
        sampling: args.sampling.params_of(model.file())?,
        fixed_seed: !args.sampling.draws_seed(),
        speculation: args.speculate.speculation(),
        disk: args.prefixes.disk(),
        ..ModelOptions::default()
    };
    // Repacking only pays off in token-by-token decoding.
    let encoder = EngineOptions { repack: false, ..args.engine.options(KvType::F32)? };
    let n_ctx = args.context.ctx.map(|n| n as usize);
    options.encoder = Some(EngineOptions { n_ctx, ..encoder });
    if !model.spec().generates() || !whole {
        let tokenizer = Arc::new(tokenizer_of(&model)?);
        let n_ctx = n_ctx.unwrap_or(model.spec().n_ctx_train);
        let loaded = Loaded::new(model, tokenizer, None, (n_ctx, 0), options);
        if whole {
            // What cannot be had is told now, not at the first request.
            loaded.encoder().map_err(|fault| CliError::failed(fault.to_string()))?;
        }
        return Ok(loaded);
    }
    let at = CliError::of_model(model.path());
    let n_rows = args.parallel.max(args.speculate.n_rows());
    let (context, gpu) = (&args.context, &args.gpu);
    let (tokenizer, mut engine) = args.engine.ready(&model, context, KvType::F16, n_rows, gpu)?;
    args.speculate.add_draft(&args.engine, &model, &tokenizer, &mut engine)?;
    let tokenizer = Arc::new(tokenizer);
    options.variables = variables(args, &model, &tokenizer, source)?;
    let sizes = (engine.n_ctx(), engine.decoder().kv().kv_bytes_max());
    let runner = Runner::start(engine, Some(tokenizer.clone()), args.parallel).map_err(at)?;
    Ok(Loaded::new(model, tokenizer, Some(runner), sizes, options))
}

/// Variables of the template that the options set.
fn variables(
    args: &ServeArgs,
    model: &Model,
    tokenizer: &Tokenizer,
    source: Option<&str>,
) -> Result<Map<String, Json>, CliError> {
    let at = CliError::of_model(model.path());
    let prompter = args.template.prompter(tokenizer, source);
    let prompter = prompter.map_err(|error| at(CliError::failed(args.template.told(&error))))?;
    if !prompter.has_template() {
        note(format_args!(
            "note: the model has no chat template: it continues texts only; --chat-template takes a file \
             or one of {}",
            builtin_names()
        ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_names_of_their_files() {
        assert_eq!(id_of(Path::new("a/b-Q4_K_M.gguf")), "b-Q4_K_M");
        assert_eq!(id_of(Path::new("b-00001-of-00004.gguf")), "b");
        assert!(parse_adapter("a=b.gguf:0.5").is_ok());
        assert!(parse_adapter("b.gguf").is_err() && parse_adapter("=b.gguf").is_err());
        assert!(parse_time("5m").is_ok() && parse_time("soon").is_err());
    }
}
