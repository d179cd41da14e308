//! `teff tune`: scales, norms or an adapter, trained on a text or on conversations.
//!
//! Ctrl-C writes what the steps so far have given to a checkpoint beside the output, as every some steps do;
//! the same command goes on from there. The output appears only if it is better on what was not learned
//! from.

mod data;
mod told;
mod values;

use super::engine_args::kernels;
use super::options::{ModelArgs, resolve, tokenizer_of, whole_number};
use super::progress::WorkProgress;
use super::source::Source;
use super::space::UNFINISHED;
use super::{CliError, interrupt, model_file, receipt, space, threads};
use crate::backend::MAX_THREADS;
use crate::cache::ModelRef;
use crate::engine::{EngineError, EngineOptions, Model};
use crate::model::describe::counted;
use crate::model::{Fnv, fingerprint};
use crate::quantize::{Options, Plan};
use crate::receipt::Request;
use crate::tune::{
    Course, Event, LoraShape, Report, Schedule, State, TeacherModel, Trainable, TuneError, Tuner,
    train,
};
use data::{DataArgs, Dataset};
use gguf_rs_lite::GgufFile;
use regex_automata::meta::Regex;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use told::Figures;
use values::{Trained, parse_decay, parse_positive, parse_what};

/// Rates when nobody says: relative to what scales and norms were, and of an adapter's numbers.
const RATE: f64 = 2e-3;
const LORA_RATE: f64 = 1e-3;
/// Matrices and rank when nobody says.
const TARGETS: &str = r"^blk\.";
const RANK: u32 = 8;
/// Steps in which the rate grows, as a part of all.
const WARMUP_PART: u64 = 20;

/// `teff tune`
#[derive(clap::Args, Debug)]
pub struct TuneArgs {
    /// The model: a GGUF file, an alias or hf:owner/repo[:file]
    #[arg(value_name = "MODEL")]
    input: ModelRef,
    /// The file to write: the model with other scales and norms, or an adapter
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// What is trained: scales (of the blocks of quantized tensors, whose codes stay; those of MXFP4 are powers
    /// of two, which no step reaches, and stay, too), norms, both (scales,norms), or lora (an adapter beside
    /// weights of any type)
    #[arg(long, value_name = "WHAT", default_value = "scales,norms", value_parser = parse_what)]
    train: Trained,
    #[command(flatten)]
    data: DataArgs,
    /// Learn the answers of this model of the same vocabulary, by their divergence, not the text's tokens
    #[arg(long, value_name = "MODEL")]
    teacher: Option<ModelRef>,
    /// Matrices of which scales or an adapter are trained, by a pattern that their names are searched for
    /// [default: ^blk\.]
    #[arg(long, value_name = "REGEX")]
    targets: Option<String>,
    /// Rank of the adapter [default: 8]
    #[arg(long, value_name = "N", value_parser = whole_number(1..=1024_u32))]
    rank: Option<u32>,
    /// The adapter counts this over the rank [default: twice the rank]
    #[arg(long, value_name = "X", value_parser = parse_positive)]
    alpha: Option<f64>,
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole_number(1..=10_000_000_u64))]
    steps: u64,
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole_number(1..=65_536_u32))]
    batch: u32,
    /// How far a number moves in a step, at most: relative to what it was, of an adapter's as it is
    /// [default: 0.002, of adapters 0.001]
    #[arg(long, value_name = "X", value_parser = parse_positive)]
    lr: Option<f64>,
    /// Steps in which the rate grows to that [default: a twentieth]
    #[arg(long, value_name = "N", value_parser = whole_number(0..=10_000_000_u64))]
    warmup: Option<u64>,
    /// Part of what a number has moved that a step takes back, times the rate
    #[arg(long, value_name = "X", default_value = "0", value_parser = parse_decay)]
    weight_decay: f64,
    /// Length that gradients are cut to
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_positive)]
    clip: f64,
    /// Seed of the order of sequences, and of an adapter's first numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Measure, and keep the best, every so many steps [default: a fourth]
    #[arg(long, value_name = "N", value_parser = whole_number(1..=10_000_000_u64))]
    eval_every: Option<u64>,
    /// Write a checkpoint every so many steps
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = whole_number(1..=10_000_000_u64))]
    save_every: u64,
    /// Threads [default: as many as there are CPUs]
    #[arg(short, long, value_name = "N", value_parser = whole_number(1..=MAX_THREADS as u16))]
    threads: Option<u16>,
    /// Say what would be trained, on what and how, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Tunes a model.
pub fn tune(args: &TuneArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.check()?;
    interrupt::done(|| "nothing was written".into());
    let start = Instant::now();
    let source = Source::open(&args.input)?;
    let path = source.path().to_owned();
    if source.file().is_none() {
        let what = "tuning is for GGUF files: `teff convert` makes one of a folder";
        return Err(CliError::failed(format!("{}: {what}", path.display())));
    }
    if !args.dry_run {
        model_file::check_outputs(&args.output, false, &source, args.data.paths())?;
    }
    let opened = source.into_file(&args.output)?;
    let model = Model::from_file(opened.file.clone(), &path)?;
    let dataset = args.data.read(&model, &tokenizer_of(&model)?)?;
    let teacher = args.open_teacher(&model, &dataset)?;
    let mut tuner = args.tuner(&model, &dataset)?;
    args.tell_fixed(&tuner);
    let key = args.key(&model, teacher.as_ref(), &dataset);
    let mut state = State::new(tuner.values());
    let checkpoint = space::beside(&args.output, UNFINISHED);
    let course = args.course();
    if args.dry_run {
        return args.tell_plan(&tuner, &dataset, out);
    }
    space::check(
        &args.output,
        state.bytes().saturating_add(opened.file.tensors().iter().map(|t| t.bytes).sum()),
    )?;
    if checkpoint.exists() {
        state.load(&checkpoint, key)?;
        super::note(format_args!(
            "going on from {} behind step {}",
            checkpoint.display(),
            state.steps()
        ));
    }
    let run = Run { args, checkpoint, key, state: Arc::new(Mutex::new(state)) };
    let report = run.train(&mut tuner, &dataset, teacher, &course, &model)?;
    if report.best.is_some() {
        interrupt::done(|| "nothing was written".into());
        args.write(&model, &tuner, &report, &dataset)?;
    }
    // It is of no further use: the same command would end at once.
    interrupt::whole(|| drop(std::fs::remove_file(&run.checkpoint)));
    args.tell(&tuner, &report, start, out)
}

/// Training under way.
struct Run<'a> {
    args: &'a TuneArgs,
    checkpoint: PathBuf,
    key: u64,
    state: Arc<Mutex<State>>,
}

impl Run<'_> {
    fn train(
        &self,
        tuner: &mut Tuner,
        dataset: &Dataset,
        teacher: Option<(Model, TeacherModel)>,
        course: &Course,
        model: &Model,
    ) -> Result<Report, CliError> {
        self.save_at_interrupt();
        let (teacher_model, mut teacher) = teacher.unzip();
        let steps = course.schedule.steps;
        let first = self.lock().steps();
        let before = self.lock().before();
        let mut progress = WorkProgress::behind(first);
        let mut told = Figures { step: first, before, ..Figures::default() };
        let mut failed = Ok(());
        let report = train(
            tuner,
            (&dataset.train, &dataset.held_out),
            teacher.as_mut(),
            course,
            &self.state,
            &mut |event| {
                match event {
                    Event::Sequence => {}
                    Event::Step { step, loss, norm } => {
                        (told.step, told.loss, told.norm) = (step, loss, norm);
                        if step.is_multiple_of(self.args.save_every) && step < steps {
                            failed = self.lock().save(&self.checkpoint, self.key);
                        }
                    }
                    Event::Measured { step, loss } => told.note(step, steps, loss),
                }
                progress.show(told.step, steps, |line| told.line(steps, &line));
                // A file that was cut meanwhile must not be touched again.
                let mut files = [Some(model), teacher_model.as_ref()].into_iter().flatten();
                let is_whole = files.all(|model| model.file().check_uncut().is_ok());
                failed.is_ok() && is_whole
            },
        );
        drop(progress);
        failed?;
        model.file().check_uncut()?;
        report.map_err(|error| self.args.at(model.path(), error))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets Ctrl-C write what there is.
    fn save_at_interrupt(&self) {
        let (state, path, key) = (self.state.clone(), self.checkpoint.clone(), self.key);
        let is_tried = AtomicBool::new(false);
        interrupt::done(move || {
            // Held by others for as long as a step moves numbers.
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.steps() == 0 || is_tried.swap(true, Ordering::Relaxed) {
                return "no step was made, nothing was written".into();
            }
            let steps = counted(state.steps(), "step");
            match state.save(&path, key) {
                Ok(()) => {
                    format!("{} has {steps}: the same command goes on", path.display())
                }
                Err(error) => format!("{steps} could not be written: {error}"),
            }
        });
    }
}

impl TuneArgs {
    /// Refuses what would have no effect.
    fn check(&self) -> Result<(), CliError> {
        let Trained { scales, lora, .. } = self.train;
        let given = [("--rank", self.rank.is_some()), ("--alpha", self.alpha.is_some())];
        let unused = match given.iter().find(|(_, is_given)| *is_given && !lora) {
            Some((flag, _)) => format!("{flag} is for --train lora"),
            None if self.targets.is_some() && !scales && !lora => {
                "--targets chooses matrices, and --train norms trains none".into()
            }
            None => return Ok(()),
        };
        Err(CliError::usage(unused))
    }

    fn targets(&self) -> &str {
        self.targets.as_deref().unwrap_or(TARGETS)
    }

    fn lora(&self) -> Option<LoraShape> {
        let rank = self.rank.unwrap_or(RANK) as usize;
        let alpha = self.alpha.map_or(2.0 * rank as f32, |alpha| alpha as f32);
        self.train.lora.then_some(LoraShape { rank, alpha })
    }

    fn course(&self) -> Course {
        let rate = self.lr.unwrap_or(if self.train.lora { LORA_RATE } else { RATE });
        let schedule = Schedule {
            steps: self.steps,
            warmup: self.warmup.unwrap_or(self.steps / WARMUP_PART),
            rate,
            decay: self.weight_decay,
            clip: self.clip,
        };
        let eval_every = self.eval_every.unwrap_or((self.steps / 4).max(1));
        Course { schedule, batch: self.batch as usize, eval_every, seed: self.seed }
    }

    /// Names a model in front of what went wrong with it, if the error does not name a file itself.
    fn at(&self, path: &Path, error: TuneError) -> CliError {
        match error {
            TuneError::Foreign(_) | TuneError::Output(_) | TuneError::Teacher(_) => error.into(),
            TuneError::Nothing => {
                let hint = "(--targets, --train)";
                CliError::failed(format!("{}: {error} {hint}", path.display()))
            }
            error => CliError::failed(format!("{}: {error}", path.display())),
        }
    }

    fn open_teacher(
        &self,
        model: &Model,
        dataset: &Dataset,
    ) -> Result<Option<(Model, TeacherModel)>, CliError> {
        let Some(name) = &self.teacher else { return Ok(None) };
        let teacher = ModelArgs::named(name.clone()).open()?;
        if !teacher.spec().generates() {
            return Err(CliError::of_model(teacher.path())(EngineError::NoLogits));
        }
        // Numbers of tokens can agree by accident.
        let tokens =
            |model: &Model| model.file().get("tokenizer.ggml.tokens").map(|v| format!("{v:?}"));
        if tokens(model) != tokens(&teacher) {
            return Err(CliError::of_model(teacher.path())(
                "the teacher's vocabulary is another one".to_string(),
            ));
        }
        let mut options = EngineOptions::default();
        (options.threads, options.kernels) = (Some(threads::number(self.threads)), kernels()?);
        let made = TeacherModel::new(&teacher, dataset.longest(), &options);
        let made = made.map_err(|error| CliError::of_model(teacher.path())(error))?;
        Ok(Some((teacher, made)))
    }

    fn tuner(&self, model: &Model, dataset: &Dataset) -> Result<Tuner, CliError> {
        let Trained { scales, norms, .. } = self.train;
        let what = Trainable { scales, norms, lora: self.lora() };
        let targets = self.targets();
        let pattern = Regex::new(targets)
            .map_err(|error| CliError::usage(format!("--targets {targets}: {error}")))?;
        let wanted = |name: &str| pattern.is_match(name);
        let on = (kernels()?, threads::number(self.threads));
        let tuner = Tuner::new(model, dataset.longest(), what, &wanted, on, self.seed)
            .map_err(|error| self.at(model.path(), error))?;
        match self.targets.is_some() && tuner.n_matrices() == 0 {
            true => Err(CliError::failed(format!(
                "{}: --targets {targets}: no matrix of such a name has what is to be trained",
                model.path().display()
            ))),
            false => Ok(tuner),
        }
    }

    /// A number for all that training depends on.
    fn key(
        &self,
        model: &Model,
        teacher: Option<&(Model, TeacherModel)>,
        dataset: &Dataset,
    ) -> u64 {
        let mut hash = Fnv::default();
        hash.update(&fingerprint(model.file()).to_le_bytes());
        teacher.iter().for_each(|(t, _)| hash.update(&fingerprint(t.file()).to_le_bytes()));
        for sequence in dataset.train.iter().chain(&dataset.held_out) {
            hash.update(&(sequence.tokens.len() as u64).to_le_bytes());
            sequence.tokens.iter().for_each(|token| hash.update(&token.to_le_bytes()));
            sequence.counts.iter().for_each(|&counts| hash.update(&[u8::from(counts)]));
        }
        hash.update(self.parameters().as_bytes());
        hash.0
    }

    /// What was asked for, in words.
    fn parameters(&self) -> String {
        let (course, Trained { scales, norms, .. }) = (self.course(), self.train);
        let Schedule { steps, warmup, rate, decay, clip } = course.schedule;
        let mut words: Vec<String> = match self.lora() {
            Some(LoraShape { rank, alpha }) => {
                vec!["train=lora".into(), format!("rank={rank}"), format!("alpha={alpha}")]
            }
            None => vec![format!(
                "train={}",
                match (scales, norms) {
                    (true, true) => "scales,norms",
                    (true, false) => "scales",
                    _ => "norms",
                }
            )],
        };
        words.extend([
            format!("targets={}", self.targets()),
            format!("steps={steps} batch={} lr={rate} warmup={warmup}", course.batch),
            format!("weight-decay={decay} clip={clip} eval-every={}", course.eval_every),
            format!("seed={} teacher={}", self.seed, self.teacher.is_some()),
        ]);
        words.join(" ")
    }

    /// The receipt's entries: whatever the bytes depend on.
    fn receipt(
        &self,
        file: &GgufFile,
        report: &Report,
        dataset: &Dataset,
    ) -> Result<Request, CliError> {
        let mut request = receipt::request(file, "tune");
        request.add("parameters", self.parameters());
        let teacher = self.teacher.as_ref().map(resolve).transpose()?;
        let data = self.data.named().map(|(name, path)| (name, Some(path)));
        receipt::add_files(&mut request, data.chain([("teacher", teacher.as_deref())]))?;
        let what = if self.teacher.is_some() { "divergence" } else { "loss" };
        request.add(&format!("{what}.before"), format!("{:.6}", report.before));
        request.add(
            &format!("{what}.after"),
            report.best.map_or(String::new(), |(l, _)| format!("{l:.6}")),
        );
        request.add(
            "measured",
            format!(
                "{} of {}",
                counted(report.n, "prediction"),
                counted(dataset.held_out.len(), "sequence")
            ),
        );
        Ok(request)
    }

    fn write(
        &self,
        model: &Model,
        tuner: &Tuner,
        report: &Report,
        dataset: &Dataset,
    ) -> Result<(), CliError> {
        let at = |error| self.at(model.path(), error);
        let request = self.receipt(model.file(), report, dataset)?;
        if let Some(shape) = self.lora() {
            let architecture = model.file().get("general.architecture");
            let architecture = architecture.and_then(|value| value.as_str()).unwrap_or_default();
            // Its file has no vocabulary.
            let request = Request { tokens: Vec::new(), ..request };
            let source = tuner.source_hash(model).map_err(at)?;
            let written = interrupt::whole(|| {
                tuner.write_adapter(&self.output, architecture, shape, (&request, source))
            });
            return written.map_err(at);
        }
        let file = model.file();
        let options = Options { receipt: Some(request), ..model_file::options(self.threads)? };
        let of_plan = |error| model_file::failed(model.path(), &error, "");
        let mut plan = Plan::new(file, &options).map_err(of_plan)?;
        plan.take_ready(tuner.made(model).map_err(at)?);
        model_file::write(&mut plan, &self.output, None, "written", &of_plan).map(drop)
    }
}
