//! `teff perplexity`: how well a model predicts a text, how far it is from a teacher, and how many
//! multiple-choice questions it answers.

use super::corpus::{ChunkArgs, ChunkProgress, read_text};
use super::engine_args::{EngineArgs, check_context};
use super::options::{ModelArgs, tokenizer_of};
use super::{CliError, choices_file, interrupt, space};
use crate::backend::pages::KvType;
use crate::cache::ModelRef;
use crate::engine::{Engine, EngineError, Model};
use crate::eval::{
    self, Accuracy, Chunks, EvalError, LogitsFile, LogitsWriter, Options, Question, Report, Teacher,
};
use crate::model::describe::counted;
use crate::text::Tokenizer;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// `teff perplexity`
#[derive(clap::Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// The text; - is standard input
    #[arg(short, long, value_name = "PATH", required_unless_present = "choices")]
    file: Option<PathBuf>,
    #[command(flatten)]
    chunks: ChunkArgs,
    /// Compare with this model of the same vocabulary
    #[arg(long, value_name = "MODEL", requires = "file")]
    teacher: Option<ModelRef>,
    /// Compare with the answers in a file that --save-logits wrote for the same text; with --teacher,
    /// the file must be that model's
    #[arg(long, value_name = "PATH", requires = "file")]
    teacher_logits: Option<PathBuf>,
    /// Write the model's answers to a file, 2 bytes for each token of the vocabulary at each scored
    /// position
    #[arg(long, value_name = "PATH", requires = "file")]
    save_logits: Option<PathBuf>,
    /// Answer multiple-choice questions: JSON objects, one on a line, with `context`, `endings` and
    /// `label`, or as HellaSwag, Winogrande and ARC are published
    #[arg(long, value_name = "PATH")]
    choices: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the figures.
pub fn perplexity(args: &PerplexityArgs, out: &mut dyn Write) -> Result<(), CliError> {
    interrupt::done(|| "nothing was measured".into());
    let text = args.file.as_deref().map(read_text).transpose()?;
    let model = args.engine.open_generator(&args.model)?;
    if let Some(path) = &args.save_logits {
        let inputs = [&args.file, &args.teacher_logits, &args.choices].into_iter().flatten();
        space::check_output(path, inputs.map(PathBuf::as_path), &[model.file()])?;
    }
    let tokenizer = tokenizer_of(&model)?;
    let questions =
        args.choices.as_ref().map(|path| choices_file::read(path, &tokenizer)).transpose()?;
    let mut found = serde_json::Map::new();
    let mut lines = Vec::new();
    if let Some(text) = text {
        let (figures, words) = measure_text(args, &model, &tokenizer, &text)?;
        found.extend(figures);
        lines.extend(words);
    }
    if let Some(questions) = questions {
        let (figures, words) = measure_choices(args, &model, &questions)?;
        found.extend(figures);
        lines.extend(words);
    }
    match args.json {
        true => writeln!(out, "{}", Value::Object(found))?,
        false => lines.iter().try_for_each(|line| writeln!(out, "{line}"))?,
    }
    Ok(())
}

/// Names and values for JSON, and lines for people.
type Figures = (serde_json::Map<String, Value>, Vec<String>);

fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => serde_json::Map::new(),
    }
}

/// The model made ready for sequences of `n_ctx` tokens.
fn engine(args: &PerplexityArgs, model: &Model, n_ctx: usize) -> Result<Engine, CliError> {
    let options = args.engine.options(KvType::F16)?;
    let options = eval::engine_options(model, n_ctx, &options);
    check_context(model, n_ctx, options.kv_type, args.engine.kv_bytes())?;
    let engine = Engine::new(model, &options).map_err(CliError::of_model(model.path()))?;
    args.engine.lock(model, &engine)?;
    Ok(engine)
}

/// A teacher, opened.
struct TeacherModel {
    model: Model,
    engine: Engine,
}

impl TeacherModel {
    /// The teacher that the user names, unless its answers are in a file.
    fn open(
        args: &PerplexityArgs,
        chunks: &Chunks,
        text: &str,
    ) -> Result<Option<TeacherModel>, CliError> {
        let Some(name) = args.teacher.clone().filter(|_| args.teacher_logits.is_none()) else {
            return Ok(None);
        };
        let model = ModelArgs::named(name).open()?;
        if !model.spec().generates() {
            return Err(CliError::of_model(model.path())(EngineError::NoLogits));
        }
        let own = Chunks::of_text(&tokenizer_of(&model)?, text, chunks.n_ctx())?;
        if !own.iter().take(chunks.len()).eq(chunks.iter()) {
            return Err(CliError::of_model(model.path())(
                "the teacher's vocabulary cuts the text into other tokens".to_string(),
            ));
        }
        let engine = engine(args, &model, chunks.n_ctx())?;
        Ok(Some(TeacherModel { model, engine }))
    }
}

/// The answers of a teacher that are in a file.
fn open_logits(args: &PerplexityArgs, chunks: &Chunks) -> Result<Option<LogitsFile>, CliError> {
    let Some(path) = &args.teacher_logits else { return Ok(None) };
    let file = LogitsFile::open(path, chunks)?;
    if let Some(name) = &args.teacher {
        file.check_teacher(ModelArgs::named(name.clone()).open()?.file())?;
    }
    Ok(Some(file))
}

fn measure_text(
    args: &PerplexityArgs,
    model: &Model,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<Figures, CliError> {
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let chunks = args.chunks.cut(model, tokenizer, path, text)?;
    let mut teacher_file = open_logits(args, &chunks)?;
    let mut teacher_model = TeacherModel::open(args, &chunks, text)?;
    let mut engine = engine(args, model, chunks.n_ctx())?;
    let n_vocab = engine.decoder().n_out();
    if let Some(path) = &args.save_logits {
        let rows = chunks.len() * chunks.n_scored();
        space::check(path, (rows as u64).saturating_mul(2 * n_vocab as u64 + 4))?;
    }
    let save = |path: &PathBuf| LogitsWriter::create(path, &chunks, n_vocab, model.file());
    // Ctrl-C comes before there is a file, or removes it.
    let (mut save, part) = interrupt::whole(|| -> Result<_, CliError> {
        let save = args.save_logits.as_ref().map(save).transpose()?;
        let part = save.as_ref().map(|save| save.part().to_path_buf());
        tell_interrupt("nothing was measured".into(), part.as_deref());
        Ok((save, part))
    })?;
    let teacher_file_of = teacher_model.as_ref().map(|teacher| teacher.model.file().clone());
    let teacher = match (&mut teacher_file, &mut teacher_model) {
        (Some(file), _) => Teacher::File(file),
        (None, Some(teacher)) => Teacher::Engine(&mut teacher.engine),
        (None, None) => Teacher::Nobody,
    };
    let n_chunks = chunks.len();
    let mut progress = ChunkProgress::new(n_chunks, "chunks");
    let mut cut = Ok(());
    let mut on_chunk = |report: &Report| {
        let so_far = report.perplexity.value();
        progress.show(report.n_chunks, &format!(", perplexity {so_far:.4}"));
        let n = report.n_chunks;
        let done = format!("perplexity {so_far:.4} over {n} of {n_chunks} chunks");
        tell_interrupt(done, part.as_deref());
        // A file that was cut meanwhile must not be touched again.
        let mut files = [Some(model.file()), teacher_file_of.as_ref()].into_iter().flatten();
        cut = files.try_for_each(|file| file.check_uncut());
        if cut.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let options = Options { teacher, save: save.as_mut(), on_chunk: Some(&mut on_chunk) };
    let measured = eval::perplexity(&mut engine, &chunks, options);
    drop(progress);
    cut?;
    let report = measured.map_err(at(model))?;
    if let Some(save) = save {
        interrupt::whole(|| save.finish())?;
    }
    interrupt::done(String::new);
    Ok(figures(&report, &chunks))
}

/// Names the model in front of what went wrong with it; other errors name their files.
fn at(model: &Model) -> impl Fn(EvalError) -> CliError {
    let of_model = CliError::of_model::<CliError>(model.path());
    move |error| match error {
        EvalError::Engine(error) => of_model(error.into()),
        EvalError::Logits(_) | EvalError::Threads(_) => error.into(),
        error => of_model(error.into()),
    }
}

/// Tells what was done, if Ctrl-C comes, and takes a half-written file away.
fn tell_interrupt(done: String, part: Option<&Path>) {
    let part = part.map(Path::to_path_buf);
    interrupt::done(move || {
        // What cannot be removed stays under a name that says what it is.
        part.iter().for_each(|part| drop(std::fs::remove_file(part)));
        done.clone()
    });
}

/// The figures of a text.
fn figures(report: &Report, chunks: &Chunks) -> Figures {
    let perplexity = &report.perplexity;
    let mut found = object(json!({
        "perplexity": perplexity.value(), "error": perplexity.error(),
        "tokens": perplexity.tokens(), "chunks": report.n_chunks, "ctx": chunks.n_ctx(),
    }));
    let mut lines = vec![format!(
        "perplexity {:.4} +/- {:.4} ({} scored in {} of {})",
        perplexity.value(),
        perplexity.error(),
        counted(perplexity.tokens(), "token"),
        counted(report.n_chunks, "chunk"),
        chunks.n_ctx()
    )];
    let Some(divergence) = &report.divergence else { return (found, lines) };
    let [median, p90, p99, p999, max] = divergence.kl_quantiles([0.5, 0.9, 0.99, 0.999, 1.0]);
    let (mean, error) = (divergence.kl_mean(), divergence.kl_error());
    let (dp_mean, dp_rms) = (divergence.dp_mean(), divergence.dp_rms());
    found.extend(object(json!({
        "teacher_perplexity": divergence.teacher_perplexity(),
        "kl_mean": mean, "kl_error": error, "kl_median": median, "kl_p90": p90, "kl_p99": p99,
        "kl_p999": p999, "kl_max": max, "top1": divergence.same_top(),
        "dp_mean": dp_mean, "dp_rms": dp_rms,
    })));
    lines.extend([
        format!("teacher's perplexity {:.4}", divergence.teacher_perplexity()),
        format!(
            "divergence mean {mean:.6} +/- {error:.6}, median {median:.6}, 90 % {p90:.6}, 99 % \
             {p99:.6}, 99.9 % {p999:.6}, largest {max:.6}"
        ),
        format!("same token likeliest {:.3} %", 100.0 * divergence.same_top()),
        format!(
            "probability of the token that came: changed by {:+.3} % on average, {:.3} % RMS",
            100.0 * dp_mean,
            100.0 * dp_rms
        ),
    ]);
    (found, lines)
}

fn measure_choices(
    args: &PerplexityArgs,
    model: &Model,
    questions: &[Question],
) -> Result<Figures, CliError> {
    let longest = questions.iter().map(Question::n_tokens).max().unwrap_or(1);
    let n_ctx = args.chunks.ctx().unwrap_or(longest.max(args.chunks.n_ctx(model)));
    let mut engine = engine(args, model, n_ctx)?;
    let n = questions.len();
    let mut progress = ChunkProgress::new(n, "questions");
    let mut cut = Ok(());
    let answered = eval::choose(&mut engine, questions, &mut |so_far| {
        let (n, share) = (so_far.n, 100.0 * so_far.by_sum());
        progress.show(n, &format!(", {share:.2} % right"));
        interrupt::done(move || format!("{share:.2} % of {n} questions right"));
        cut = model.file().check_uncut();
        if cut.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    drop(progress);
    cut?;
    Ok(choice_figures(&answered.map_err(at(model))?))
}

/// The figures of questions.
fn choice_figures(accuracy: &Accuracy) -> Figures {
    let [sum, mean] = [accuracy.by_sum(), accuracy.by_mean()];
    let errors = [sum, mean].map(|share| accuracy.error_of(share));
    let found = object(json!({
        "choices": accuracy.n, "accuracy": sum, "accuracy_error": errors[0],
        "accuracy_norm": mean, "accuracy_norm_error": errors[1],
    }));
    let line = format!(
        "{}: {:.2} +/- {:.2} % right, {:.2} +/- {:.2} % by likelihood per token",
        counted(accuracy.n, "question"),
        100.0 * sum,
        100.0 * errors[0],
        100.0 * mean,
        100.0 * errors[1]
    );
    (found, vec![line])
}
