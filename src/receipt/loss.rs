//! What was lost in a tensor that got another type.

/// Loss of a tensor that got another type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Number of weights.
    pub elements: u64,
    /// Sum of squared errors.
    pub error2: f64,
    /// Sum of squared weights.
    pub weight2: f64,
    /// Sum of squares of what stands for them.
    pub written2: f64,
}

impl Loss {
    /// Root mean square error.
    pub fn rms_error(&self) -> f64 {
        (self.error2 / self.elements.max(1) as f64).sqrt()
    }

    /// The error as a part of the weights' own size; 0 of weights that are all zero.
    pub fn relative(&self) -> f64 {
        if self.weight2 == 0.0 { 0.0 } else { (self.error2 / self.weight2).sqrt() }
    }

    /// Cosine of the angle between the weights and what stands for them; 1 of weights that are all zero.
    pub fn cosine(&self) -> f64 {
        let product = (self.weight2 + self.written2 - self.error2) / 2.0;
        let lengths = (self.weight2 * self.written2).sqrt();
        if lengths == 0.0 { 1.0 } else { product / lengths }
    }

    /// Adds what others lost.
    pub fn add(&mut self, other: Loss) {
        self.elements += other.elements;
        self.error2 += other.error2;
        self.weight2 += other.weight2;
        self.written2 += other.written2;
    }
}

/// Sums of squares in eight chains, which compilers turn into vectors.
pub(crate) fn loss_of(x: &[f32], y: &[f32]) -> Loss {
    const CHAINS: usize = 8;
    let [mut error2, mut weight2, mut written2] = [[0f64; CHAINS]; 3];
    let mut add = |i: usize, x: f32, y: f32| {
        let error = f64::from(x) - f64::from(y);
        error2[i] += error * error;
        weight2[i] += f64::from(x) * f64::from(x);
        written2[i] += f64::from(y) * f64::from(y);
    };
    let ((x8, x_rest), (y8, y_rest)) = (x.as_chunks::<CHAINS>(), y.as_chunks::<CHAINS>());
    for (x, y) in x8.iter().zip(y8) {
        (0..CHAINS).for_each(|i| add(i, x[i], y[i]));
    }
    for (i, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
        add(i, x, y);
    }
    let [error2, weight2, written2] = [error2, weight2, written2].map(|sums| sums.iter().sum());
    Loss { elements: x.len() as u64, error2, weight2, written2 }
}
