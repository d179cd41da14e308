//! Types for a size: of what each tensor costs in each type, the least sum that fits.
//!
//! The offers of a tensor are thinned to their lower convex hull, and the steps of all hulls taken by
//! what they gain for a byte, dearest last, as long as there is room; what is left then goes to
//! whatever still gains most. Where few tensors are most of a model, one step too large for the
//! room is far from the best: each offer of the `PINNED` largest is tried in turn, with the rest
//! as above. The result depends on nothing but the offers and the room.

use gguf_rs_lite::GgmlType;

/// Tensors all of whose offers are tried: those of embedding and head.
const PINNED: usize = 2;

/// A type that a tensor may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// The type.
    pub ty: GgmlType,
    /// Bytes in the file, padding included.
    pub bytes: u64,
    /// Cost, in any unit that adds up over tensors.
    pub cost: f64,
}

/// Chooses an offer for each tensor, by its number, so that the sum of bytes is at most `room` and the
/// sum of costs low.
///
/// # Errors
/// The least possible sum of bytes, if that is more.
///
/// # Panics
/// If a tensor has no offer.
pub fn allocate(tensors: &[Vec<Offer>], room: u64) -> Result<Vec<usize>, u64> {
    let least = |offers: &Vec<Offer>| offers.iter().map(|offer| offer.bytes).min().unwrap_or(0);
    let least: u64 = tensors.iter().map(least).sum();
    if least > room {
        return Err(least);
    }
    let hulls: Vec<Vec<usize>> = tensors.iter().map(|offers| hull(offers)).collect();
    let steps = steps(tensors, &hulls);
    let mut largest: Vec<usize> = (0..tensors.len()).collect();
    let span = |&tensor: &usize| tensors[tensor].iter().map(|offer| offer.bytes).max();
    largest.sort_by_key(|tensor| std::cmp::Reverse(span(tensor)));
    largest.truncate(PINNED);
    let mut best: Option<(f64, Vec<usize>)> = None;
    for pins in combinations(tensors, &largest) {
        let Some(chosen) = fill(tensors, &hulls, &steps, &pins, room) else { continue };
        let cost = chosen.iter().zip(tensors).map(|(&i, offers)| offers[i].cost).sum();
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, chosen));
        }
    }
    best.map(|(_, chosen)| chosen).ok_or(least)
}

/// The offers of a tensor with the least cost for their bytes, such that each further byte gains less
/// than the one before: their numbers, the smallest first.
fn hull(offers: &[Offer]) -> Vec<usize> {
    assert!(!offers.is_empty(), "a tensor has an offer");
    let mut order: Vec<usize> = (0..offers.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&offers[a], &offers[b]);
        a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost))
    });
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|&last| offers[i].cost >= offers[last].cost) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && gain(&offers[last], &offers[i]) >= gain(&offers[before], &offers[last])
        {
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// What a byte gains on the way from one offer to a larger one.
fn gain(from: &Offer, to: &Offer) -> f64 {
    (from.cost - to.cost) / (to.bytes - from.bytes).max(1) as f64
}

/// Step of a tensor, to a place of its hull.
struct Step {
    tensor: usize,
    to: usize,
    gain: f64,
}

/// The steps of all hulls, what gains most first.
fn steps(tensors: &[Vec<Offer>], hulls: &[Vec<usize>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (tensor, (offers, hull)) in tensors.iter().zip(hulls).enumerate() {
        for (to, pair) in (1..).zip(hull.windows(2)) {
            steps.push(Step { tensor, to, gain: gain(&offers[pair[0]], &offers[pair[1]]) });
        }
    }
    steps.sort_by(|a, b| {
        b.gain.total_cmp(&a.gain).then(a.tensor.cmp(&b.tensor)).then(a.to.cmp(&b.to))
    });
    steps
}

/// A tensor and the offer that it gets.
type Pin = (usize, usize);

/// Every choice of an offer for each of some tensors.
fn combinations(tensors: &[Vec<Offer>], pinned: &[usize]) -> Vec<Vec<Pin>> {
    pinned.iter().fold(vec![Vec::new()], |before, &tensor| {
        let with = |pins: &Vec<Pin>| {
            let pins = pins.clone();
            (0..tensors[tensor].len()).map(move |offer| [&pins[..], &[(tensor, offer)]].concat())
        };
        before.iter().flat_map(with).collect()
    })
}

/// Steps as long as there is room; `None` if there is none for the pinned offers.
fn fill(
    tensors: &[Vec<Offer>],
    hulls: &[Vec<usize>],
    steps: &[Step],
    pins: &[Pin],
    room: u64,
) -> Option<Vec<usize>> {
    let mut chosen: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
    let mut places = vec![Some(0); tensors.len()];
    for &(tensor, offer) in pins {
        chosen[tensor] = offer;
        places[tensor] = None;
    }
    let used: u64 = chosen.iter().zip(tensors).map(|(&i, offers)| offers[i].bytes).sum();
    let mut left = room.checked_sub(used)?;
    for step in steps {
        let Some(place) = places[step.tensor].filter(|place| place + 1 == step.to) else {
            continue;
        };
        let (offers, hull) = (&tensors[step.tensor], &hulls[step.tensor]);
        let more = offers[hull[step.to]].bytes - offers[hull[place]].bytes;
        if more <= left {
            left -= more;
            places[step.tensor] = Some(step.to);
            chosen[step.tensor] = hull[step.to];
        }
    }
    while let Some((tensor, offer)) = best_rest(tensors, &chosen, pins, left) {
        left -= tensors[tensor][offer].bytes - tensors[tensor][chosen[tensor]].bytes;
        chosen[tensor] = offer;
    }
    Some(chosen)
}

/// The offer that gains most for a byte among those that there is room for, if one gains at all.
fn best_rest(tensors: &[Vec<Offer>], chosen: &[usize], pins: &[Pin], left: u64) -> Option<Pin> {
    let mut best: Option<(f64, Pin)> = None;
    for (tensor, offers) in tensors.iter().enumerate() {
        if pins.iter().any(|pin| pin.0 == tensor) {
            continue;
        }
        let own = &offers[chosen[tensor]];
        for (number, offer) in offers.iter().enumerate() {
            let fits = offer.bytes >= own.bytes && offer.bytes - own.bytes <= left;
            if !fits || offer.cost >= own.cost {
                continue;
            }
            let gain = gain(own, offer);
            if best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, (tensor, number)));
            }
        }
    }
    best.map(|(_, pin)| pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(all: &[(u64, f64)]) -> Vec<Offer> {
        all.iter().map(|&(bytes, cost)| Offer { ty: GgmlType::Q4_0, bytes, cost }).collect()
    }

    fn sums(tensors: &[Vec<Offer>], chosen: &[usize]) -> (u64, f64) {
        let of = |(&i, offers): (&usize, &Vec<Offer>)| (offers[i].bytes, offers[i].cost);
        let add = |a: (u64, f64), b: (u64, f64)| (a.0 + b.0, a.1 + b.1);
        chosen.iter().zip(tensors).map(of).fold((0, 0.0), add)
    }

    #[test]
    fn hulls_keep_what_gains_less_and_less() {
        // Dominated, above the line between its neighbours, equal in bytes but dearer.
        let all = offers(&[(10, 8.0), (20, 9.0), (30, 5.0), (30, 6.0), (40, 1.0), (60, 0.0)]);
        assert_eq!(hull(&all), [0, 4, 5]);
    }

    #[test]
    fn too_little_room_is_told_with_the_least() {
        let tensors = [offers(&[(10, 1.0), (5, 2.0)]), offers(&[(7, 1.0)])];
        assert_eq!(allocate(&tensors, 11), Err(12));
        assert_eq!(allocate(&tensors, 12), Ok(vec![1, 0]));
        assert_eq!(allocate(&tensors, 17), Ok(vec![0, 0]));
    }

    /// A large tensor whose next step leaves a hole that small ones do not fill.
    #[test]
    fn a_tensor_that_is_most_of_the_model_does_not_spoil_the_rest() {
        let tensors = [
            offers(&[(100, 50.0), (190, 4.0), (200, 0.0)]),
            offers(&[(10, 30.0), (20, 2.0)]),
            offers(&[(10, 30.0), (20, 3.0)]),
        ];
        assert_eq!(allocate(&tensors, 220), Ok(vec![1, 1, 0]));
        assert_eq!(allocate(&tensors, 229), Ok(vec![1, 1, 0]));
        assert_eq!(allocate(&tensors, 230), Ok(vec![1, 1, 1]));
    }

    /// Beside every possible choice.
    #[test]
    fn choices_fit_and_are_near_the_best() {
        let mut state = 7_u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % n
        };
        for _ in 0..40 {
            let tensors: Vec<Vec<Offer>> = (0..6)
                .map(|_| {
                    let (size, weight) = (1 + draw(9), 1.0 + draw(9) as f64);
                    let offer = |bits: u64| (size * bits, weight * 0.25_f64.powi(bits as i32));
                    offers(&(2..7).map(offer).collect::<Vec<_>>())
                })
                .collect();
            let room = 60 + draw(60);
            let mut best = f64::INFINITY;
            for number in 0..5_usize.pow(6) {
                let all: Vec<usize> = (0..6).map(|i| number / 5_usize.pow(i) % 5).collect();
                let (bytes, cost) = sums(&tensors, &all);
                best = if bytes <= room { best.min(cost) } else { best };
            }
            match allocate(&tensors, room) {
                Err(least) => assert!(least > room && best.is_infinite()),
                Ok(chosen) => {
                    let (bytes, cost) = sums(&tensors, &chosen);
                    assert!(bytes <= room, "{bytes} of {room}");
                    assert!(cost <= 1.1 * best, "{cost}, and {best} is possible");
                }
            }
        }
    }
}
