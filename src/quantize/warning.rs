//! What a user should know of a plan.

use super::method::METHODS;
use super::mix::Mix;
use gguf_rs_lite::GgmlType;

/// Something that a user should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Tensors are quantized already, and lose more than if they were quantized from floats.
    Requantized {
        /// Number of tensors.
        tensors: usize,
        /// Type of the first.
        ty: GgmlType,
    },
    /// Tensors get another type because of their shape.
    Fallback {
        /// Number of tensors.
        tensors: usize,
        /// The first.
        name: String,
        /// Type that it would have got.
        wanted: GgmlType,
        /// Type that it gets.
        ty: GgmlType,
    },
    /// No tensor gets the type that the mix is named after: it has that for parts that the model
    /// lacks.
    NoBase {
        /// The mix.
        mix: Mix,
        /// Types that tensors get, and how many of them.
        types: Vec<(GgmlType, usize)>,
    },
    /// The method has no way to types, which the default one makes.
    OtherMethod {
        /// Number of tensors.
        tensors: usize,
        /// The first.
        name: String,
        /// Type that it gets.
        ty: GgmlType,
        /// Name of the method.
        method: &'static str,
    },
    /// The importance matrix lacks tensors that are quantized.
    NoImportances {
        /// Number of tensors.
        tensors: usize,
        /// The first.
        name: String,
    },
    /// A type gets no importances although it is of little use without.
    Forced {
        /// Number of tensors.
        tensors: usize,
        /// The first.
        name: String,
        /// Type that it gets.
        ty: GgmlType,
    },
    /// Sparse tensors that get types without a zero.
    LosesZeros {
        /// Number of tensors.
        tensors: usize,
        /// The first.
        name: String,
        /// Type that it gets.
        ty: GgmlType,
    },
    /// Experts that the calibration text never chose.
    UnseenExperts {
        /// Number of experts, over all tensors.
        experts: usize,
        /// The first tensor.
        name: String,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let many = |n: &usize| if *n == 1 { "tensor" } else { "tensors" };
        match self {
            Warning::Requantized { tensors, ty } => write!(
                f,
                "{tensors} {} quantized before (to {ty}): the losses add up, a file of floats \
                 gives a better result",
                many(tensors)
            ),
            Warning::Fallback { tensors, name, wanted, ty } => write!(
                f,
                "{tensors} {} with rows that are no multiple of the type's block, such as {name:?}: \
                 {ty} for {wanted}",
                many(tensors)
            ),
            Warning::NoBase { mix, types } => {
                let told = types.iter().map(|(ty, n)| format!("{n} {} {ty}", many(n)));
                let told = told.collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "mix {mix} has {} for experts only, of which there are none: ",
                    mix.base()
                )?;
                write!(f, "{told}")
            }
            Warning::OtherMethod { tensors, name, ty, method } => write!(
                f,
                "method {method} has no way to {tensors} {}, such as {name:?} ({ty}): {} makes them",
                many(tensors),
                METHODS[0].name
            ),
            Warning::LosesZeros { tensors, name, ty } => write!(
                f,
                "{tensors} {} of zeros to a quarter or more, such as {name:?}, will have none: {ty} has no \
                 code for zero",
                many(tensors)
            ),
            Warning::NoImportances { tensors, name } => write!(
                f,
                "the importance matrix has nothing for {tensors} {}, such as {name:?}",
                many(tensors)
            ),
            Warning::Forced { tensors, name, ty } => write!(
                f,
                "{tensors} {} without importances, such as {name:?}: expect {ty} to be of little use",
                many(tensors)
            ),
            Warning::UnseenExperts { experts, name } => write!(
                f,
                "{experts} matrices, such as of {name:?}, have met nothing of the calibration text \
                 (experts that were never chosen): their columns count alike"
            ),
        }
    }
}
