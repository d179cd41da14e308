//! Sets of characters.

/// Ranges that a set may have: what has more is not looked into.
const RANGES_MAX: usize = 1000;

/// Characters as ranges, ascending and apart; `None` if they are too many to be looked into.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chars(Option<Vec<(u32, u32)>>);

impl Chars {
    /// No character.
    pub fn none() -> Chars {
        Chars(Some(Vec::new()))
    }

    /// Characters of a class.
    pub fn of_class(ranges: &[(char, char)], is_negated: bool) -> Chars {
        let ranges = ranges.iter().map(|&(first, last)| (first as u32, last as u32)).collect();
        let set = Chars::merged(ranges);
        if is_negated { set.negated() } else { set }
    }

    fn merged(mut ranges: Vec<(u32, u32)>) -> Chars {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Chars((merged.len() <= RANGES_MAX).then_some(merged))
    }

    fn negated(self) -> Chars {
        let Some(ranges) = self.0 else { return self };
        let mut gaps = Vec::new();
        let mut next = 0;
        for (first, last) in ranges {
            if next < first {
                gaps.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= char::MAX as u32 {
            gaps.push((next, char::MAX as u32));
        }
        Chars::merged(gaps)
    }

    /// Characters of both.
    pub fn with(&self, other: &Chars) -> Chars {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Chars::merged([&a[..], b].concat()),
            _ => Chars(None),
        }
    }

    /// Whether it is sure that no character is in both.
    pub fn is_apart_from(&self, other: &Chars) -> bool {
        let (Some(a), Some(b)) = (&self.0, &other.0) else { return false };
        let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if x.1 < y.0 {
                a.next();
            } else if y.1 < x.0 {
                b.next();
            } else {
                return false;
            }
        }
        true
    }

    /// Whether it is sure that there is none.
    pub fn is_none(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_joined_turned_around_and_told_apart() {
        let set = |ranges: &[(char, char)]| Chars::of_class(ranges, false);
        let letters = set(&[('n', 'z'), ('a', 'm')]);
        assert_eq!(letters, set(&[('a', 'z')]));
        let others = Chars::of_class(&[('a', 'z')], true);
        assert!(letters.is_apart_from(&others) && !letters.is_none());
        assert_eq!(letters.with(&others), set(&[('\0', char::MAX)]));
        assert!(!set(&[('a', 'c')]).is_apart_from(&set(&[('c', 'd')])));
        assert!(Chars::of_class(&[('\0', char::MAX)], true).is_none());
    }
}
