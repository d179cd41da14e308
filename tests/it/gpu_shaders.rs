//! What every shader becomes on each API, by the translator that runs there: Metal's language, DirectX's,
//! and SPIR-V, which a validator of its makers reads. No GPU is needed.

use crate::require::require;
use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use teff::backend::gpu::{Form, Shader, Width};
use wgpu::naga::back::{hlsl, msl, spv};
use wgpu::naga::valid::{
    Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use wgpu::naga::{Module, front};

/// The version of Metal's language on the oldest systems that are supported: macOS 10.15.
const MSL: (u8, u8) = (2, 2);
/// Of Vulkan 1.1.
const SPIRV: (u8, u8) = (1, 3);

/// Forms of shaders, with subgroups of each size, but for those that are emulated.
const FORMS: [Form; 9] = [
    Form::Plain,
    Form::Subgroups(Width::Fixed(8)),
    Form::Subgroups(Width::Fixed(16)),
    Form::Subgroups(Width::Fixed(32)),
    Form::Subgroups(Width::Fixed(64)),
    Form::Subgroups(Width::Any),
    Form::Lanes(8),
    Form::Lanes(16),
    Form::Lanes(32),
];

/// Every shader in every form that it differs in.
fn shaders() -> impl Iterator<Item = (Shader, Form)> {
    let of_form = |form| Shader::all(form).map(move |shader| (shader, form));
    let mut known = HashSet::new();
    let is_new = move |(shader, form): &(Shader, Form)| known.insert(shader.source(*form));
    FORMS.into_iter().flat_map(of_form).filter(is_new)
}

#[test]
fn sums_are_by_subgroups_where_there_are_some() {
    let by_subgroups = |form| {
        let is_one = |shader: &Shader| shader.source(form).contains("subgroupAdd(");
        Shader::all(form).filter(is_one).collect::<Vec<_>>()
    };
    assert_eq!(by_subgroups(Form::Plain), []);
    for form in FORMS.into_iter().filter(|form| matches!(form, Form::Subgroups(_))) {
        let found = by_subgroups(form);
        for shader in Shader::all(form) {
            let is_sum = matches!(
                shader,
                Shader::MatVec(..) | Shader::Experts(_) | Shader::Rows { .. } | Shader::Rope { .. }
            );
            assert_eq!(found.contains(&shader), is_sum, "{shader:?}, {form:?}");
        }
    }
}

/// A shader, checked.
fn parse(shader: Shader, form: Form) -> (Module, ModuleInfo) {
    let source = shader.source(form);
    let label = shader.label();
    assert!(!source.contains("unrolled"), "{label}: a marked loop is one still");
    let module = front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(&source)));
    let capabilities = match form {
        Form::Plain => Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        _ => Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP,
    };
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module);
    (module, info.unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(&source))))
}

#[test]
fn every_shader_is_one_in_metals_language() {
    for (shader, form) in shaders() {
        let (module, info) = parse(shader, form);
        // Numbers of buffers are given when a pipeline is made.
        let options = msl::Options {
            lang_version: MSL,
            fake_missing_bindings: true,
            ..msl::Options::default()
        };
        let text = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        let (text, info) = text.unwrap_or_else(|e| panic!("{}: {e}", shader.label()));
        assert!(info.entry_point_names[0].is_ok(), "{}: {info:?}", shader.label());
        assert!(text.contains("kernel void main_"), "{}: {text}", shader.label());
    }
}

#[test]
fn every_shader_is_one_in_directx_language() {
    // Those of lanes are for software Vulkan.
    for (shader, form) in shaders().filter(|(_, form)| !matches!(form, Form::Lanes(_))) {
        let (module, info) = parse(shader, form);
        let mut text = String::new();
        let (options, of_pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
        let mut writer = hlsl::Writer::new(&mut text, &options, &of_pipeline);
        let written = writer.write(&module, &info, None);
        let written = written.unwrap_or_else(|e| panic!("{}: {e}", shader.label()));
        assert!(written.entry_point_names[0].is_ok(), "{}", shader.label());
    }
}

/// Code for Vulkan: its words as bytes.
fn spirv(shader: Shader, form: Form) -> Vec<u8> {
    let (module, info) = parse(shader, form);
    let options = spv::Options { lang_version: SPIRV, ..spv::Options::default() };
    let words = spv::write_vec(&module, &info, &options, None);
    let words = words.unwrap_or_else(|e| panic!("{}: {e}", shader.label()));
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// What `spirv-val` says against code; `None`: there is no such program.
fn validate(code: &[u8]) -> Option<Result<(), String>> {
    let mut command = Command::new("spirv-val");
    command.args(["--target-env", "vulkan1.1", "-"]).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = require("spirv", child.ok(), "there is no spirv-val")?;
    // It may end before it has read all of what is no code.
    let _ = child.stdin.take().unwrap().write_all(code);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some(if output.status.success() { Ok(()) } else { Err(said) })
}

#[test]
fn every_shader_is_valid_spirv() {
    for (shader, form) in shaders() {
        let Some(said) = validate(&spirv(shader, form)) else { return };
        assert_eq!(said, Ok(()), "{}", shader.label());
    }
    // The validator would say so.
    let mut broken = spirv(Shader::Add, Form::Plain);
    broken.truncate(broken.len() - 4);
    assert!(validate(&broken).unwrap().is_err());
}
