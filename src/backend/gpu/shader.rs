//! The shaders: which files make one, and the pipelines that are compiled of them, once each.

use super::device::{Device, DeviceResult};
use crate::backend::pages::KvType;
use gguf_rs_lite::GgmlType;
use std::collections::HashMap;

const COMMON: &str = include_str!("shaders/common.wgsl");
const ATTENTION_PARAMS: &str = include_str!("shaders/attention_params.wgsl");
const BYTES: &str = include_str!("shaders/types/bytes.wgsl");
const CHUNK: &str = include_str!("shaders/chunk.wgsl");

/// Longest head of keys or values: a workgroup has one in its memory.
pub(super) const HEAD_MAX: usize = 1024;

/// Elements of heads come in steps of so many: two for each thread.
pub(super) const HEAD_STEP: usize = 128;

/// Tokens that the product for a few tokens computes at a time, beside one.
pub(super) const FEW: u32 = 4;
/// Tokens of a step that are few, at most.
pub(super) const FEW_MAX: u32 = 8;

/// Tokens of a [`Shader::MatRows`] beside one and [`FEW`].
pub(super) const ROWS_TOKENS: u32 = 16;
/// Rows that a lane of it has.
pub(super) const ROWS_OF_LANE: u32 = 4;
/// Heads that a [`Shader::HeadGroups`] has at a time.
pub(super) const SHARED_HEADS: usize = 4;

/// Abilities of an adapter that shaders may rely on, and what is dear to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Workgroups and nothing else.
    Plain,
    /// Subgroups, which take the sums of norms and of products with a few tokens.
    Subgroups(Width),
    /// A program on the CPU with subgroups of so many lanes: to it each number that is read costs more
    /// than all that is computed with it, and what lanes tell each other costs nothing.
    Lanes(u32),
}

/// Lanes of a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// So many: 8, 16, 32 or 64.
    Fixed(u32),
    /// A width that the shader finds when it runs.
    Any,
    /// So many invocations in the place of a subgroup, for tests.
    Emulated(u32),
}

/// A shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shader {
    /// Rows of a table.
    Embed(GgmlType),
    /// Segments of rows, from one buffer to another or in place.
    Rows {
        /// Whether source and destination are one.
        in_place: bool,
    },
    /// Products with so many tokens at a time.
    MatVec(GgmlType, u32),
    /// Products with many tokens.
    MatMul(GgmlType),
    /// Products with so many tokens at a time, rows apart, for [`Form::Lanes`].
    MatRows(GgmlType, u32),
    /// Products of chosen experts.
    Experts(GgmlType),
    /// Gate and up projections made one.
    Glu,
    /// A sum.
    Add,
    /// Factors.
    Scale,
    /// Norms and rotation of heads, keys and values to pages.
    Rope {
        /// Type of keys and values in pages.
        kv: KvType,
        /// Longest head, a multiple of 128.
        head_max: usize,
    },
    /// Attention over pages.
    Attention {
        /// As above.
        kv: KvType,
        /// As above.
        head_max: usize,
    },
    /// Attention of heads that share keys and values, for [`Form::Lanes`].
    HeadGroups {
        /// As above.
        kv: KvType,
        /// As above.
        head_max: usize,
    },
    /// Choice of experts.
    Route,
    /// Sum of experts' outputs.
    Combine,
}

/// Files of a type's `unpack32`; `None`: the type has none.
pub(super) fn unpacking(ty: GgmlType) -> Option<&'static [&'static str]> {
    const K_SCALES: &str = include_str!("shaders/types/k_scales.wgsl");
    const IQ4: &str = include_str!("shaders/types/iq4.wgsl");
    Some(match ty {
        GgmlType::Q4_0 => &[BYTES, include_str!("shaders/types/q4_0.wgsl")],
        GgmlType::Q4_1 => &[BYTES, include_str!("shaders/types/q4_1.wgsl")],
        GgmlType::Q5_0 => &[BYTES, include_str!("shaders/types/q5_0.wgsl")],
        GgmlType::Q5_1 => &[BYTES, include_str!("shaders/types/q5_1.wgsl")],
        GgmlType::Q8_0 => &[BYTES, include_str!("shaders/types/q8_0.wgsl")],
        GgmlType::Q2_K => &[BYTES, include_str!("shaders/types/q2_k.wgsl")],
        GgmlType::Q3_K => &[BYTES, include_str!("shaders/types/q3_k.wgsl")],
        GgmlType::Q4_K => &[BYTES, K_SCALES, include_str!("shaders/types/q4_k.wgsl")],
        GgmlType::Q5_K => &[BYTES, K_SCALES, include_str!("shaders/types/q5_k.wgsl")],
        GgmlType::Q6_K => &[BYTES, include_str!("shaders/types/q6_k.wgsl")],
        GgmlType::IQ4_NL => &[BYTES, IQ4, include_str!("shaders/types/iq4_nl.wgsl")],
        GgmlType::IQ4_XS => &[BYTES, IQ4, include_str!("shaders/types/iq4_xs.wgsl")],
        GgmlType::MXFP4 => &[BYTES, include_str!("shaders/types/mxfp4.wgsl")],
        GgmlType::F16 => &[BYTES, include_str!("shaders/types/f16.wgsl")],
        GgmlType::BF16 => &[BYTES, include_str!("shaders/types/bf16.wgsl")],
        GgmlType::F32 => &[BYTES, include_str!("shaders/types/f32.wgsl")],
        _ => return None,
    })
}

impl Shader {
    /// Every shader that a program can need in a form.
    pub fn all(form: Form) -> impl Iterator<Item = Shader> {
        let of_type = move |ty| {
            let products = [1, FEW, FEW_MAX + 1].map(|n| Shader::product(ty, n, form));
            products.into_iter().chain([Shader::Embed(ty), Shader::Experts(ty)])
        };
        let types = GgmlType::all().filter(|&ty| unpacking(ty).is_some());
        let of_heads = move |(kv, head_max)| {
            let attention = match form {
                Form::Plain | Form::Subgroups(_) => Shader::Attention { kv, head_max },
                Form::Lanes(_) => Shader::HeadGroups { kv, head_max },
            };
            [Shader::Rope { kv, head_max }, attention]
        };
        let heads = KvType::ALL.into_iter().filter(|&kv| stored(kv).is_some()).flat_map(|kv| {
            (HEAD_STEP..=HEAD_MAX).step_by(HEAD_STEP).map(move |head_max| (kv, head_max))
        });
        let others = [
            Shader::Rows { in_place: false },
            Shader::Rows { in_place: true },
            Shader::Glu,
            Shader::Add,
            Shader::Scale,
            Shader::Route,
            Shader::Combine,
        ];
        types.flat_map(of_type).chain(heads.flat_map(of_heads)).chain(others)
    }

    /// The product for a step of `n` tokens.
    pub(super) fn product(ty: GgmlType, n: u32, form: Form) -> Shader {
        match (form, n) {
            (Form::Plain | Form::Subgroups(_), 1) => Shader::MatVec(ty, 1),
            (Form::Plain | Form::Subgroups(_), 2..=FEW_MAX) => Shader::MatVec(ty, FEW),
            (Form::Plain | Form::Subgroups(_), _) => Shader::MatMul(ty),
            (Form::Lanes(_), 1) => Shader::MatRows(ty, 1),
            (Form::Lanes(_), 2..=FEW_MAX) => Shader::MatRows(ty, FEW),
            (Form::Lanes(_), _) => Shader::MatRows(ty, ROWS_TOKENS),
        }
    }

    /// Rows of the weight, and tokens, that a workgroup of a product has.
    pub(super) fn tile(self, form: Form) -> [u32; 2] {
        match (self, form) {
            (Shader::MatVec(_, tokens), _) => [8, tokens],
            (Shader::MatMul(_), _) => [64, 32],
            (Shader::MatRows(_, tokens), Form::Lanes(lanes)) => [ROWS_OF_LANE * lanes, tokens],
            _ => unreachable!("only products have tiles"),
        }
    }

    /// Name for messages.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Shader::Embed(ty) => format!("embedding of {ty}"),
            Shader::MatVec(ty, n) | Shader::MatRows(ty, n) => {
                format!("product of {ty} for {n} tokens")
            }
            Shader::MatMul(ty) => format!("product of {ty} for many tokens"),
            Shader::Experts(ty) => format!("experts of {ty}"),
            other => format!("{other:?}"),
        }
    }

    /// The shader in WGSL.
    ///
    /// # Panics
    /// If the type of a weight has no unpacking, or it is no shader of the form.
    #[must_use]
    pub fn source(self, form: Form) -> String {
        const CHECKED: &str = "types were checked before";
        let unpack = |ty| unpacking(ty).expect(CHECKED);
        let [load, store] = [0, 1].map(|i| move |kv| stored(kv).expect(CHECKED)[i]);
        let mut source = String::from(COMMON);
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| source.push_str(part));
        match self {
            Shader::Embed(ty) => {
                add(unpack(ty));
                add(&[include_str!("shaders/embed.wgsl")]);
            }
            Shader::Rows { in_place } => {
                let section = if in_place { "in_place" } else { "separate" };
                add(&[&sums(form), &section_of(include_str!("shaders/rows.wgsl"), section)]);
            }
            Shader::MatVec(ty, n) => {
                add(unpack(ty));
                add(&[include_str!("shaders/product_params.wgsl"), CHUNK]);
                let product = match form {
                    Form::Subgroups(_) => {
                        add(&[&sums(form)]);
                        include_str!("shaders/matvec_subgroups.wgsl")
                    }
                    _ => include_str!("shaders/matvec.wgsl"),
                };
                add(&[&product.replace("TOKENS", &format!("{n}u"))]);
            }
            Shader::MatMul(ty) => {
                add(unpack(ty));
                add(&[include_str!("shaders/product_params.wgsl")]);
                add(&[include_str!("shaders/matmul.wgsl")]);
            }
            Shader::MatRows(ty, n) => {
                add(unpack(ty));
                add(&[include_str!("shaders/product_params.wgsl"), &lanes(form)]);
                add(&[&include_str!("shaders/matrows.wgsl").replace("TOKENS", &format!("{n}u"))]);
            }
            Shader::Experts(ty) => {
                add(unpack(ty));
                add(&[CHUNK]);
                let section = match form {
                    Form::Subgroups(_) => {
                        add(&[&sums(form)]);
                        "subgroups"
                    }
                    _ => "memory",
                };
                add(&[&section_of(include_str!("shaders/experts.wgsl"), section)]);
            }
            Shader::Glu => add(&[include_str!("shaders/glu.wgsl")]),
            Shader::Add => add(&[include_str!("shaders/add.wgsl")]),
            Shader::Scale => add(&[include_str!("shaders/scale.wgsl")]),
            Shader::Rope { kv, head_max } => {
                add(&[&format!("const HEAD_MAX: u32 = {head_max}u;\n"), load(kv), store(kv)]);
                add(&[&sums(form), include_str!("shaders/rope.wgsl")]);
            }
            Shader::Attention { kv, head_max } => {
                add(&[ATTENTION_PARAMS, load(kv)]);
                add(&[&format!("const HEAD_MAX: u32 = {head_max}u;\n")]);
                let places = format!("{}u", head_max / 128);
                add(&[&include_str!("shaders/attention.wgsl").replace("PLACES", &places)]);
            }
            Shader::HeadGroups { kv, head_max } => {
                add(&[ATTENTION_PARAMS, load(kv), &lanes(form)]);
                let places = head_max.div_ceil(2 * n_lanes(form) as usize);
                let places = format!("{places}u");
                add(&[&include_str!("shaders/head_groups.wgsl").replace("PLACES", &places)]);
            }
            Shader::Route => add(&[include_str!("shaders/route.wgsl")]),
            Shader::Combine => add(&[include_str!("shaders/combine.wgsl")]),
        }
        unrolled(&source)
    }

    /// Whether each storage buffer from binding 3 on is written.
    fn is_written(self) -> &'static [bool] {
        match self {
            Shader::Embed(_) | Shader::Rows { in_place: false } | Shader::Glu | Shader::Add => {
                &[false, true]
            }
            Shader::Rows { in_place: true } | Shader::Scale => &[true],
            Shader::MatVec(..) | Shader::MatMul(_) | Shader::MatRows(..) | Shader::Experts(_) => {
                &[false, false, false, true]
            }
            Shader::Rope { .. } => &[false, true, true],
            Shader::Attention { .. } | Shader::HeadGroups { .. } | Shader::Combine => {
                &[false, false, true]
            }
            Shader::Route => &[true, true],
        }
    }
}

/// Files that load from rows of pages, and that store them; `None`: the type has none.
pub(super) fn stored(kv: KvType) -> Option<[&'static str; 2]> {
    match kv {
        KvType::F32 => {
            Some([include_str!("shaders/kv_f32.wgsl"), include_str!("shaders/kv_store_f32.wgsl")])
        }
        KvType::F16 => {
            Some([include_str!("shaders/kv_f16.wgsl"), include_str!("shaders/kv_store_f16.wgsl")])
        }
        KvType::Q8_0 => {
            Some([include_str!("shaders/kv_q8_0.wgsl"), include_str!("shaders/kv_store_q8_0.wgsl")])
        }
        KvType::Q4_0 => None,
    }
}

/// Sums over a workgroup, with what they know of its invocations.
fn sums(form: Form) -> String {
    const SUBGROUPS: &str = include_str!("shaders/subgroups.wgsl");
    const REAL: &str = include_str!("shaders/subgroups_real.wgsl");
    const EMULATED: &str = include_str!("shaders/subgroups_emulated.wgsl");
    let of =
        |subgroups: &str, lanes: &str| [SUBGROUPS, &subgroups.replace("LANES", lanes)].concat();
    match form {
        Form::Plain => include_str!("shaders/places.wgsl").to_owned(),
        Form::Lanes(lanes) | Form::Subgroups(Width::Fixed(lanes)) => of(REAL, &format!("{lanes}u")),
        // Some drivers tell more lanes than there are.
        Form::Subgroups(Width::Any) => of(REAL, "subgroupAdd(1u)"),
        Form::Subgroups(Width::Emulated(lanes)) => of(EMULATED, &format!("{lanes}u")),
    }
}

/// Lanes of a subgroup.
fn n_lanes(form: Form) -> u32 {
    match form {
        Form::Lanes(lanes) => lanes,
        Form::Plain | Form::Subgroups(_) => unreachable!("the shader is of another form"),
    }
}

fn lanes(form: Form) -> String {
    format!("const LANES: u32 = {}u;\n", n_lanes(form))
}

/// The lines of a source for all, and those behind `//? name`.
fn section_of(source: &str, name: &str) -> String {
    let mut section = "all";
    let mut lines = String::new();
    for line in source.lines() {
        match line.strip_prefix("//? ") {
            Some(next) => section = next,
            None if section == "all" || section == name => {
                lines.push_str(line);
                lines.push('\n');
            }
            None => {}
        }
    }
    lines
}

/// A source whose loops marked as unrolled are: `for (var i = 0u; i < 8u; i++) { // unrolled`, to a brace
/// of the same indentation. Loops that count their rounds, as translators make them lest they be
/// endless, are not unrolled by drivers, and then arrays do not stay in registers.
fn unrolled(source: &str) -> String {
    let mut lines = source.lines();
    let mut out = String::new();
    while let Some(line) = lines.next() {
        let Some(header) = line.trim().strip_suffix(" { // unrolled") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let (name, n) = parse_loop(header).expect("a marked loop counts from 0 to a number");
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let body: Vec<&str> = lines.by_ref().take_while(|line| **line != *end).collect();
        let body = body.join("\n");
        for i in 0..n {
            let round = unrolled(&with_number(&body, name, i));
            out.push_str(&format!("{{\n{round}}}\n"));
        }
    }
    out
}

/// Name and bound of `for (var i = 0u; i < 8u; i++)`.
fn parse_loop(header: &str) -> Option<(&str, u32)> {
    let (name, rest) = header.strip_prefix("for (var ")?.split_once(" = 0u; ")?;
    let bound = rest.strip_prefix(name)?.strip_prefix(" < ")?.split_once("u; ")?.0;
    Some((name, bound.parse().ok()?))
}

/// A source with a number in place of a word.
fn with_number(source: &str, name: &str, number: u32) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        out.push_str(before);
        match before.ends_with(is_word) || after.starts_with(is_word) {
            true => out.push_str(name),
            false => out.push_str(&format!("{number}u")),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The pipelines of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    /// By whether buffers are written.
    layouts: HashMap<&'static [bool], wgpu::BindGroupLayout>,
    pipelines: HashMap<Shader, wgpu::ComputePipeline>,
}

impl Pipelines {
    /// Compiles a shader, unless it is there.
    ///
    /// # Errors
    /// The device refuses it.
    pub fn add(&mut self, device: &Device, shader: Shader) -> DeviceResult<()> {
        if self.pipelines.contains_key(&shader) {
            return Ok(());
        }
        let label = shader.label();
        let what = format!("the shader `{label}`");
        let is_written = shader.is_written();
        let pipeline = device.guarded(&what, || {
            let layout = self.layouts.entry(is_written);
            let layout = layout.or_insert_with(|| layout_of(&device.device, is_written));
            let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(shader.source(device.form).into()),
            });
            let layout = device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(layout)],
                immediate_size: 0,
            });
            device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every one of them is written before it is read.
                    zero_initialize_workgroup_memory: false,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache: None,
            })
        })?;
        self.pipelines.insert(shader, pipeline);
        Ok(())
    }

    /// The pipeline of a shader that was added.
    pub fn get(&self, shader: Shader) -> &wgpu::ComputePipeline {
        &self.pipelines[&shader]
    }

    /// The layout of its bindings.
    pub fn layout(&self, shader: Shader) -> &wgpu::BindGroupLayout {
        &self.layouts[shader.is_written()]
    }
}

/// Parameters, the step, constants, then storage buffers.
fn layout_of(device: &wgpu::Device, is_written: &[bool]) -> wgpu::BindGroupLayout {
    let entry = |binding: usize, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let mut entries = vec![
        entry(0, wgpu::BufferBindingType::Uniform),
        entry(1, storage(true)),
        entry(2, storage(true)),
    ];
    let buffers = is_written.iter().enumerate();
    entries.extend(buffers.map(|(i, is_written)| entry(3 + i, storage(!is_written))));
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    })
}
