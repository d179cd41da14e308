// What every shader begins with. `step` is the input of a step (step.rs writes it): the number of tokens, of
// those with results, where their numbers lie, where token ids and positions lie; then for each group of
// layers where its tokens' table, keys seen and slots lie. `consts` are all vectors of the program.

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> consts: array<f32>;

const NONE: u32 = 0xffffffffu;

// Tokens that the operation computes; `outputs` is 1 if those with results only.
fn n_tokens(outputs: u32) -> u32 {
    return step[outputs];
}

// The `i`-th of them.
fn token_of(i: u32, outputs: u32) -> u32 {
    if (outputs == 1u) {
        return step[step[2] + i];
    }
    return i;
}

// A hyperbolic tangent that no driver overflows.
fn tanh_of(x: f32) -> f32 {
    return tanh(clamp(x, -20.0, 20.0));
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

// The error function, to 1.2e-7 (Numerical Recipes, third edition, 6.2.2: a Chebyshev fit of erfc).
fn erf_of(x: f32) -> f32 {
    let z = abs(x);
    let t = 1.0 / (1.0 + 0.5 * z);
    var sum = 0.17087277;
    sum = -0.82215223 + t * sum;
    sum = 1.48851587 + t * sum;
    sum = -1.13520398 + t * sum;
    sum = 0.27886807 + t * sum;
    sum = -0.18628806 + t * sum;
    sum = 0.09678418 + t * sum;
    sum = 0.37409196 + t * sum;
    sum = 1.00002368 + t * sum;
    let erfc = t * exp(-z * z - 1.26551223 + t * sum);
    return select(1.0 - erfc, erfc - 1.0, x < 0.0);
}

// Activation number `f`, in the order of `dispatch.rs`; NONE: nothing.
fn activate(f: u32, x: f32) -> f32 {
    switch (f) {
        case 0u: { return x * sigmoid(x); }
        case 1u: { return 0.5 * x * (1.0 + tanh_of(0.79788456 * (x + 0.044715 * x * x * x))); }
        case 2u: { return 0.5 * x * (1.0 + erf_of(x * 0.70710678)); }
        case 3u: { return x * sigmoid(1.702 * x); }
        case 4u: { return max(x, 0.0); }
        case 5u: { let y = max(x, 0.0); return y * y; }
        case 6u: { return tanh_of(x); }
        case 7u: { return sigmoid(x); }
        case 8u: { return max(x, 0.0) + log(1.0 + exp(-abs(x))); }
        default: { return x; }
    }
}
