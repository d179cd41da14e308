//! How many layers `auto` puts on a GPU: as many as its memory holds, and none where the CPU computes a
//! layer faster, which is measured.

use super::cpu::Cpu;
use super::gpu::{AdapterInfo, AdapterRoom, Gpu, GpuOptions, adapter_info};
use super::offload::{OffloadSizes, SideBytes};
use super::pages::{CacheOp, LayerGroup, PageFill, PageId, StateSlot};
use super::plan::{GpuLayers, Plan, Side};
use super::program::{AccessKind, Op, Program};
use super::{
    Backend, BackendOptions, DeviceError, PlacementListener, StartError, StepInput, Unfinished,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps in a reading: what a device is told first, it may do while it is told the next.
const STEPS: u32 = 4;
/// Readings, the best of which counts: in the first ones weights are read for the first time.
const READINGS: usize = 5;

/// As many layers as an adapter has room for; all where the driver does not tell its memory: then what it
/// has no room for is seen when it is asked for.
pub(super) fn fitting(
    program: &Program,
    sizes: &OffloadSizes,
    room: AdapterRoom,
    unsupported: &dyn Fn(&Op) -> Option<String>,
) -> GpuLayers {
    let counts = (1..=program.layers.len()).rev().map(GpuLayers::Count);
    let fits = |layers: &GpuLayers| {
        let plan = Plan::new(program, *layers, unsupported);
        let needed = SideBytes::new(program, &plan, sizes, Side::Gpu).total();
        room.holds(needed, room.in_place_bytes(program, &plan))
    };
    [GpuLayers::All].into_iter().chain(counts).find(fits).unwrap_or(GpuLayers::None)
}

/// The layers that `auto` stands for; the listener hears what speaks against them.
///
/// # Errors
/// There is no GPU, or it fails at the one layer that is measured.
pub(super) fn layers(
    program: &Arc<Program>,
    options: &BackendOptions,
    gpu_options: &GpuOptions<'_>,
    unsupported: &dyn Fn(&Op) -> Option<String>,
    listener: &dyn PlacementListener,
) -> Result<GpuLayers, StartError> {
    let (AdapterInfo { name, memory_bytes, .. }, room) = adapter_info(gpu_options.adapter)?;
    let layers = fitting(program, &options.sizes(), room, unsupported);
    if let (Some(memory), false) = (memory_bytes, layers == GpuLayers::All) {
        let n = Plan::new(program, layers, unsupported).n_layers_on_gpu();
        let n_layers = program.layers.len();
        let mib = memory >> 20;
        listener.tell(&format!("{name} has {mib} MiB: {n} of {n_layers} layers fit"));
    }
    let plan = Plan::new(program, layers, unsupported);
    let is_on_gpu = |ops: &&Range<usize>| !ops.is_empty() && plan.side(ops.start) == Side::Gpu;
    let Some(layer) = program.layers.iter().rev().find(is_on_gpu) else {
        // The embedding and the head alone would only send rows to and fro.
        if let Some((part, reason)) = plan.kept().next() {
            listener
                .tell(&format!("{name} can run no layer: {part}: {reason}; all stay on the CPU"));
        }
        return Ok(GpuLayers::None);
    };
    let times = times_of_layer(program, options, gpu_options, layer)?;
    Ok(match slower(&name, times) {
        Some(why) => {
            listener.tell(&why);
            GpuLayers::None
        }
        None => layers,
    })
}

/// Why layers are not to be on a GPU, if a layer takes so long there and on the CPU.
fn slower(name: &str, [on_gpu, on_cpu]: [Duration; 2]) -> Option<String> {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    (on_gpu > on_cpu).then(|| {
        let (on_gpu, on_cpu) = (ms(on_gpu), ms(on_cpu));
        format!(
            "{name} computes a layer in {on_gpu}, the CPU in {on_cpu}: all layers stay on the CPU"
        )
    })
}

/// Times of a layer for one token, on the GPU and on the CPU.
fn times_of_layer(
    program: &Arc<Program>,
    options: &BackendOptions,
    gpu_options: &GpuOptions<'_>,
    layer: &Range<usize>,
) -> Result<[Duration; 2], StartError> {
    let is_here = |op: usize| layer.contains(&op);
    let n_groups = LayerGroup::of_layers(&program.kv).len();
    let table = vec![vec![Some(PageId(0))]; n_groups];
    let fill = |group| PageFill { group, page: PageId(0), token: 0, slot: 0, n: 1 };
    let fills: Vec<PageFill> = (0..n_groups).map(fill).collect();
    let has_states = usize::from(!program.states.is_empty());
    let input = StepInput {
        tokens: &[0],
        positions: &[0],
        sequence: &[0],
        tables: &[&table],
        states: &[StateSlot(0)][..has_states],
        fills: &fills,
        outputs: &[0],
        maxima: false,
    };
    // A layer is there at once.
    let gpu_options = GpuOptions { lose_at: None, ..*gpu_options };
    let mut gpu = Gpu::start(program.clone(), &gpu_options, &is_here, &|_: &str| {})?;
    gpu.prepare(&[], &input)?;
    let mut accesses = program.ops[layer.clone()].iter().flat_map(Op::buffers);
    let written = accesses.rfind(|access| access.kind != AccessKind::Read);
    let on_gpu = best_of(|| {
        (0..STEPS).try_for_each(|_| gpu.run(layer.clone(), &input))?;
        // Until here nothing waited for it.
        let mut rows = Vec::new();
        written.map_or(Ok(()), |access| gpu.read_rows(access.buf, 1, &mut rows))?;
        Ok::<_, DeviceError>(())
    })?;
    drop(gpu);
    let mut cpu = Cpu::start_part(program.clone(), options, &is_here)?;
    let mut on_cpu = Ok(Duration::ZERO);
    cpu.lead(&mut |executor| {
        let clear = [CacheOp::ClearStates(StateSlot(0))];
        on_cpu = executor.prepare(&clear[..has_states], &input).and_then(|()| {
            best_of(|| (0..STEPS).try_for_each(|_| executor.run(layer.clone(), &input, None, None)))
        });
    });
    Ok([on_gpu, on_cpu.map_err(start_error)?])
}

/// The shortest time of `f`, for one of its steps.
fn best_of<E>(mut f: impl FnMut() -> Result<(), E>) -> Result<Duration, E> {
    let mut best = Duration::MAX;
    for _ in 0..READINGS {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed() / STEPS);
    }
    Ok(best)
}

fn start_error(error: Unfinished) -> StartError {
    match error {
        Unfinished::Memory(error) => StartError::Memory(error),
        Unfinished::Device(error) | Unfinished::Moved(error) => StartError::Device(error),
        Unfinished::Cancelled => unreachable!("nobody could cancel it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::pages::KvType;
    use crate::backend::program::{Attention, Buf, KvShape, Tokens};

    /// Four layers of an operation each, with keys and values of 96 bytes for a token.
    fn program() -> Program {
        let mut program = Program { widths: vec![2], ..Program::default() };
        let ops = (0..4).map(|layer| {
            let shape = KvShape { n_kv_heads: 1, k_dim: 12, v_dim: 12, window: None };
            program.kv.push(shape);
            program.layers.push(layer..layer + 1);
            Op::Attention(Attention {
                layer,
                qkv: Buf(0),
                out: Buf(0),
                n_heads: 1,
                scale: 1.0,
                softcap: None,
                slopes: None,
                sinks: None,
                rows: Tokens::All,
            })
        });
        program.ops = ops.collect();
        program
    }

    #[test]
    fn as_many_layers_as_the_memory_holds() {
        let kv_type = KvType::F32;
        let sizes = OffloadSizes { n_ctx: 10, max_tokens: 1, max_outputs: 1, kv_type };
        let program = program();
        let fitting = |own| {
            fitting(&program, &sizes, AdapterRoom { own, ..AdapterRoom::default() }, &|_| None)
        };
        // A layer has 960 bytes, the rows of a step 8.
        assert_eq!(fitting(None), GpuLayers::All);
        assert_eq!(fitting(Some(4 * 960 + 8)), GpuLayers::Count(3));
        assert_eq!(fitting(Some(4 * 960_u64.div_ceil(9) * 10 + 10)), GpuLayers::All);
        assert_eq!(fitting(Some(2000)), GpuLayers::Count(1));
        assert_eq!(fitting(Some(1000)), GpuLayers::None);
    }

    #[test]
    fn a_slower_gpu_gets_nothing_and_is_named() {
        let times = |a, b| [Duration::from_micros(a), Duration::from_micros(b)];
        assert_eq!(slower("X", times(10, 10)), None);
        let why = slower("X", times(2500, 10)).unwrap();
        assert!(why.contains("X") && why.contains("2.50 ms") && why.contains("0.01 ms"), "{why}");
    }
}
