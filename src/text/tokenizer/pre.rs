//! Pre-tokenizers: how a text is cut into words before byte-level BPE merges inside each.
//!
//! A name (`tokenizer.ggml.pre`) is a row of [`PRES`]: steps that cut every piece further, and
//! flags. Names, steps and flags follow llama.cpp's `llama-vocab.cpp`, which the files were made
//! for. An unknown name is an error: a guess would give a model tokens it was not trained on.
//!
//! Patterns run on a linear-time engine. It has no look-ahead, and all these models need only one:
//! `\s+(?!\S)`, "white space, but leave its last character to the word behind it". That is
//! [`Step::Words`], so no input can make a split backtrack.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};
use tokenizers::tokenizer::normalizer::Range as Chosen;
use tokenizers::{PreTokenizedString, PreTokenizer};

/// One row: names that mean the same.
#[derive(Debug)]
pub(super) struct Pre {
    /// Values of `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    steps: &'static [Step],
    /// A word that is a token stays whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether BOS is added when `tokenizer.ggml.add_bos_token` is absent.
    pub add_bos: bool,
    /// Tokens spell bytes in GPT-2's alphabet; otherwise a space is "▁" and the rest is UTF-8.
    pub byte_level: bool,
    /// The models were trained on text in Unicode's normal form C.
    pub nfc: bool,
    /// A word of newlines that is a token stays whole, and BOS is added whatever the file says.
    pub gemma4: bool,
}

/// Cuts each piece of text into smaller ones.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Each match and each text between matches is a piece.
    Isolate(&'static str),
    /// Each match and, where the pattern does not match, white space is a piece: all of a run, but
    /// without its last character when something follows and it has others (`\s+(?!\S)|\s+`).
    Words(&'static str),
    /// Pieces of [`Step::Words`], with runs cut into the largest of 512, 256, 128, 64, 32, 16, 8,
    /// 4, 2, 1.
    WordsInPowers(&'static str),
    /// Cuts runs of numbers into threes from the right. As in llama.cpp, the text before a run
    /// stays with its first group; the next step parts them.
    Thousands(&'static str),
}

macro_rules! contraction {
    () => {
        "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
    };
}
/// A word with at most one leading character, numbers as `$digits`, other characters with the
/// newlines behind them, white space up to a newline: the family of Llama 3.
macro_rules! llama3 {
    ($digits:literal) => {
        concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|", $digits, other!())
    };
}
macro_rules! other {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    };
}
/// Llama 3's pattern with words that change from upper to lower case, as GPT-4o's. `$letter` are
/// letters.
macro_rules! cased {
    ($letter:literal, $suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[",
            $letter,
            r"--[a-z]]*[",
            $letter,
            r"--[A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[",
            $letter,
            r"--[a-z]]+[",
            $letter,
            r"--[A-Z]]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        )
    };
}
/// llama.cpp takes `\p{Lu}`, `\p{Ll}`, .. for `\p{L}`, which leaves this of the cased patterns.
macro_rules! uncased {
    ($digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:",
            contraction!(),
            r")?|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        )
    };
}

macro_rules! han {
    () => {
        concat!(
            r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2EBEF}",
            r"\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]"
        )
    };
}
const GPT2_WORDS: Step =
    Step::Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const LLAMA3_WORDS: Step = Step::Words(llama3!(r"\p{N}{1,3}"));
const QWEN2_WORDS: Step = Step::Words(llama3!(r"\p{N}"));
const LINES: Step = Step::Isolate(r"[^\n]+|\n+");
const DIGIT: Step = Step::Isolate(r"\p{N}");
const THREE_DIGITS: Step = Step::Isolate("[0-9][0-9][0-9]");
const HAN_KANA: Step = Step::Isolate(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+");
/// White space in these ranges counts as a vertical tab, so it is excluded.
const CJK: Step = Step::Isolate(r"[[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]--\s]+");
const NEWLINE: Step = Step::Isolate(r"[\r\n]");
const SENTENCE_WORDS: Step = Step::Isolate(r" ?[^(\s|.,!?…。，、।۔،)]+");
const DEEPSEEK3_WORDS: Step = Step::Words(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
));

const PLAIN: Pre = Pre {
    names: &[],
    steps: &[],
    ignore_merges: false,
    add_bos: false,
    byte_level: true,
    nfc: false,
    gemma4: false,
};

/// Every known pre-tokenizer.
pub(super) const PRES: &[Pre] = &[
    Pre {
        names: &["default"],
        steps: &[
            Step::Isolate(r"[\p{P}\$\+<=>\^~\|]+"),
            GPT2_WORDS,
            Step::Isolate(r"\p{N}+"),
            THREE_DIGITS,
        ],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[LLAMA3_WORDS],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], steps: &[LLAMA3_WORDS], ..PLAIN },
    Pre { names: &["glm4", "glm5"], steps: &[LLAMA3_WORDS], ignore_merges: true, ..PLAIN },
    Pre { names: &["jais-2"], steps: &[Step::WordsInPowers(llama3!(r"\p{N}{1,3}"))], ..PLAIN },
    Pre { names: &["qwen2", "f2llmv2"], steps: &[QWEN2_WORDS], nfc: true, ..PLAIN },
    Pre {
        names: &[
            "deepseek-r1-qwen",
            "kormo",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        steps: &[QWEN2_WORDS],
        ..PLAIN
    },
    Pre {
        names: &["qwen35"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
        ))],
        nfc: true,
        ..PLAIN
    },
    Pre {
        names: &["ufakzeka"],
        steps: &[Step::Words(concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", other!()))],
        ..PLAIN
    },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["seed-coder"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["exaone-moe"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["minicpm5"],
        steps: &[Step::Isolate(r"\p{N}{1,3}"), Step::Words(llama3!(r"\p{N}+"))],
        ignore_merges: true,
        ..PLAIN
    },
    Pre { names: &["laguna"], steps: &[LINES, QWEN2_WORDS], ..PLAIN },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        steps: &[GPT2_WORDS],
        ..PLAIN
    },
    Pre { names: &["mpt", "olmo", "modern-bert"], steps: &[GPT2_WORDS], nfc: true, ..PLAIN },
    Pre { names: &["command-r"], steps: &[DIGIT, GPT2_WORDS], nfc: true, ..PLAIN },
    Pre {
        names: &["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        steps: &[DIGIT, GPT2_WORDS],
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        steps: &[Step::Isolate(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2_WORDS, THREE_DIGITS],
        ..PLAIN
    },
    Pre {
        names: &["chameleon"],
        steps: &[
            Step::Isolate("<sentinel:[0-9]+>"),
            Step::Isolate("IMGIMG[A-I]{1,4}Z"),
            Step::Isolate(r"[\t\n]|    |  "),
            DIGIT,
            Step::Isolate(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2_WORDS,
        ],
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &["deepseek-llm"],
        steps: &[
            NEWLINE,
            Step::Isolate(concat!(
                r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}",
                r"\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}",
                r"\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}",
                r"\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
                r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}",
                r"\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}",
                r"\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}",
                r"\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}",
                r"\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}",
                r"\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}",
                r"\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}",
                r"\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}",
                r"\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}",
                r"\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}",
                r"\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}",
                r"\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}",
                r"\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}",
                r"\u{1E900}-\u{1E943}]+",
            )),
            Step::Isolate(
                r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3001}\u{3002}]+",
            ),
            Step::Isolate(r"\s+$"),
            CJK,
            Step::Isolate(r"\p{N}+"),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        steps: &[NEWLINE, Step::Isolate(r"\s?\p{L}+"), Step::Isolate(r"\s?\p{P}+"), CJK, DIGIT],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        steps: &[Step::Isolate(r"\p{N}{1,3}"), HAN_KANA, DEEPSEEK3_WORDS],
        ..PLAIN
    },
    Pre {
        names: &["spark2_5"],
        steps: &[
            Step::Isolate(r"\p{N}{1,3}"),
            HAN_KANA,
            Step::Words(concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"
            )),
            DIGIT,
        ],
        ..PLAIN
    },
    Pre {
        names: &["afmoe"],
        steps: &[
            Step::Thousands(r"\p{N}+"),
            Step::Isolate(concat!(
                r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}",
                r"\u{30A0}-\u{30FF}\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}",
                r"\u{E80}-\u{EFF}\u{1780}-\u{17FF}\u{1000}-\u{109F}\u{AA60}-\u{AA7F}",
                r"\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+"
            )),
            DEEPSEEK3_WORDS,
        ],
        ..PLAIN
    },
    Pre {
        names: &["youtu"],
        steps: &[
            Step::Isolate(concat!(
                r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+",
                r"|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}",
                r"\u{FF0C}\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+|[\u{3105}-\u{312F}]+",
                r"|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"
            )),
            Step::Words(uncased!(r"\p{N}")),
        ],
        ignore_merges: true,
        ..PLAIN
    },
    Pre {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[Step::Thousands(r"\p{N}+"), Step::Words(uncased!(r"\p{N}{1,3}"))],
        ..PLAIN
    },
    Pre {
        names: &["superbpe"],
        steps: &[Step::Isolate(r"\p{N}+"), Step::Thousands("[0-9]+")],
        ..PLAIN
    },
    Pre {
        names: &["tekken"],
        steps: &[Step::Words(cased!(r"\p{L}", "", r"\p{N}"))],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[Step::Words(cased!(
            r"\p{L}",
            concat!("(?:", contraction!(), ")?"),
            r"\p{N}{1,3}"
        ))],
        ..PLAIN
    },
    Pre {
        names: &["granite-embed-multi-97m"],
        steps: &[Step::Words(cased!(
            r"\p{L}\p{M}",
            concat!("(?:", contraction!(), ")?"),
            r"\p{N}{1,3}"
        ))],
        ignore_merges: true,
        ..PLAIN
    },
    Pre {
        names: &["kimi-k2"],
        steps: &[Step::Words(concat!(
            han!(),
            r"+|[^\r\n\p{L}\p{N}]?[\p{L}--",
            han!(),
            r"]+(?:",
            contraction!(),
            r")?|\p{N}{1,3}",
            other!()
        ))],
        ..PLAIN
    },
    Pre { names: &["poro-chat", "bloom", "gpt3-finnish"], steps: &[SENTENCE_WORDS], ..PLAIN },
    Pre { names: &["viking"], steps: &[SENTENCE_WORDS, DIGIT], ..PLAIN },
    Pre {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[LINES],
        byte_level: false,
        gemma4: true,
        ..PLAIN
    },
    Pre { names: &["sarvam-moe"], steps: &[LINES], byte_level: false, ..PLAIN },
];

impl Pre {
    /// Row of a name.
    pub fn named(name: &str) -> Option<&'static Pre> {
        PRES.iter().find(|pre| pre.names.contains(&name))
    }

    /// Compiles the steps: a few milliseconds.
    pub fn splitter(&self) -> Splitter {
        let compile = |step: &Step| Cutter { step: *step, regex: step.compile() };
        Splitter { cutters: self.steps.iter().map(compile).collect() }
    }
}

impl Step {
    fn compile(&self) -> Regex {
        let compiled = match self {
            Self::Isolate(pattern) | Self::Thousands(pattern) => Regex::new(pattern),
            // The second pattern is tried where the first fails, as an alternative behind it.
            Self::Words(pattern) | Self::WordsInPowers(pattern) => {
                Regex::new_many(&[*pattern, r"\s+"])
            }
        };
        compiled.expect("the patterns of PRES are constant, and a test compiles them all")
    }
}

/// A compiled [`Pre`], as the crate's pre-tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Splitter {
    cutters: Vec<Cutter>,
}

#[derive(Clone, Debug)]
struct Cutter {
    step: Step,
    regex: Regex,
}

impl Splitter {
    /// The words of `text`, in order and without gaps.
    pub fn split(&self, text: &str) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        pieces.extend((!text.is_empty()).then_some(0..text.len()));
        let mut cut = Vec::new();
        for cutter in &self.cutters {
            for piece in pieces.drain(..) {
                let start = piece.start;
                // A piece is a text of its own: `$` and look-ahead end with it.
                cutter.cut(&text[piece], |part| {
                    if !part.is_empty() {
                        cut.push(start + part.start..start + part.end);
                    }
                });
            }
            std::mem::swap(&mut pieces, &mut cut);
        }
        pieces
    }

    /// Cuts at least `size` apart such that the parts of `text` split as the whole does.
    ///
    /// Patterns do not look around, so a match is the same wherever the text begins before it and
    /// ends behind it; only the white space of `Words` and a final `$` look at what follows.
    pub fn cuts(&self, text: &str, size: usize) -> Vec<usize> {
        let mut cuts = Vec::new();
        collect_cuts(&self.cutters, text, 0, &mut |at| {
            if at - cuts.last().copied().unwrap_or(0) >= size {
                cuts.push(at);
            }
        });
        cuts
    }
}

impl PreTokenizer for Splitter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        text.split(|_, piece| {
            let words = self.split(piece.get()).into_iter();
            Ok(words.map(move |word| {
                piece.slice(Chosen::Normalized(word)).expect("words end where characters do")
            }))
        })
    }
}

/// Calls `emit` with places in `text`, which starts at `base`, where it can be cut.
fn collect_cuts(cutters: &[Cutter], text: &str, base: usize, emit: &mut impl FnMut(usize)) {
    let Some((first, later)) = cutters.split_first() else { return };
    if let Step::Isolate(pattern) = first.step
        && pattern.ends_with('$')
    {
        return; // it would match where the text is cut by any later step
    }
    let mut done = 0;
    loop {
        let found = first.find(text, done);
        if let Step::Isolate(_) = first.step {
            // No match begins in the text before this one, wherever that is cut.
            let gap = done..found.as_ref().map_or(text.len(), |(found, _)| found.start);
            collect_cuts(later, &text[gap.clone()], base + gap.start, &mut *emit);
            emit(base + gap.end);
        }
        match found {
            None => return,
            Some((run, true)) => done = leave_last(text, &run),
            Some((word, false)) => {
                done = word.end;
                // All white so far may be a run, which would not leave its last character.
                if text[word].contains(|c: char| !c.is_whitespace()) {
                    emit(base + done);
                }
            }
        }
    }
}

impl Cutter {
    fn cut(&self, text: &str, mut emit: impl FnMut(Range<usize>)) {
        let mut done = 0;
        while let Some((found, is_space)) = self.find(text, done) {
            if let Step::Thousands(_) = self.step {
                thousands(text, done, &found, &mut emit);
                done = found.end;
                continue;
            }
            emit(done..found.start);
            done = found.end;
            match self.step {
                Step::Isolate(_) | Step::Thousands(_) => emit(found),
                Step::Words(_) | Step::WordsInPowers(_) if !is_space => emit(found),
                Step::Words(_) => {
                    done = leave_last(text, &found);
                    emit(found.start..done);
                }
                Step::WordsInPowers(_) => {
                    done = leave_last(text, &found);
                    in_powers(text, found.start..done, &mut emit);
                }
            }
        }
        emit(done..text.len());
    }

    /// The next match at or behind `from`, and whether it is the white space of `Words`.
    fn find(&self, text: &str, from: usize) -> Option<(Range<usize>, bool)> {
        let input = Input::new(text).range(from..);
        // Words are nearly always adjacent, and an anchored search is a single pass.
        let here = match self.step {
            Step::Words(_) | Step::WordsInPowers(_) => {
                self.regex.search(&input.clone().anchored(Anchored::Yes))
            }
            Step::Isolate(_) | Step::Thousands(_) => None,
        };
        let found = here.or_else(|| self.regex.search(&input))?;
        Some((found.range(), found.pattern().as_usize() == 1))
    }
}

/// The end of a run of white space when its last character belongs to what follows.
fn leave_last(text: &str, run: &Range<usize>) -> usize {
    let last = text[run.clone()].char_indices().next_back().map_or(0, |(at, _)| at);
    if run.end == text.len() || last == 0 { run.end } else { run.start + last }
}

fn thousands(text: &str, from: usize, run: &Range<usize>, emit: &mut impl FnMut(Range<usize>)) {
    let starts: Vec<_> = text[run.clone()].char_indices().map(|(at, _)| run.start + at).collect();
    let mut start = from;
    let groups = (starts.len() % 3..starts.len()).step_by(3).filter(|&at| at > 0);
    for end in groups.map(|at| starts[at]).chain([run.end]) {
        emit(start..end);
        start = end;
    }
}

fn in_powers(text: &str, run: Range<usize>, emit: &mut impl FnMut(Range<usize>)) {
    let mut starts: Vec<_> =
        text[run.clone()].char_indices().map(|(at, _)| run.start + at).collect();
    let n = starts.len();
    starts.push(run.end);
    let mut at = 0;
    while at < n {
        let power = (n - at).ilog2().min(9);
        emit(starts[at]..starts[at + (1 << power)]);
        at += 1 << power;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn words<'t>(pre: &str, text: &'t str) -> Vec<&'t str> {
        let splitter = Pre::named(pre).unwrap().splitter();
        splitter.split(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn every_row_compiles_and_names_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for pre in PRES {
            let splitter = pre.splitter();
            for name in pre.names {
                assert!(seen.insert(*name), "{name} twice");
            }
            for text in ["", " ", "a", "Hi, 1234 You're\r\n  ok…  \t日本語 12", "\n\n a\u{301}b "]
            {
                let joined: String = splitter.split(text).into_iter().map(|r| &text[r]).collect();
                assert_eq!(joined, text, "{:?}", pre.names);
            }
        }
        assert!(Pre::named("no-such-thing").is_none());
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word() {
        assert_eq!(words("gpt-2", "a  b \n c  "), ["a", " ", " b", " \n", " c", "  "]);
        assert_eq!(words("gpt-2", "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(words("llama-bpe", "a \n\n  b  "), ["a", " \n\n", " ", " b", "  "]);
        assert_eq!(words("llama-bpe", "x\u{3000}\u{3000}1"), ["x", "\u{3000}", "\u{3000}", "1"]);
    }

    #[test]
    fn families_differ_where_they_should() {
        assert_eq!(words("llama-bpe", "You'LL 12345"), ["You", "'LL", " ", "123", "45"]);
        assert_eq!(words("qwen2", "You'LL 123"), ["You", "'LL", " ", "1", "2", "3"]);
        assert_eq!(words("gpt-2", "You'LL 123"), ["You", "'", "LL", " 123"]);
        assert_eq!(words("gpt-4o", "HelloWorld's"), ["Hello", "World's"]);
        assert_eq!(words("kimi-k2", "漢字abc"), ["漢字", "abc"]);
        assert_eq!(words("superbpe", "x1234567"), ["x", "1", "234", "567"]);
        assert_eq!(words("afmoe", "12345 6"), ["12", "345", " ", "6"]);
        assert_eq!(words("falcon", "a`b 12345"), ["a", "`", "b", " ", "123", "45"]);
    }

    #[test]
    fn jais_cuts_spaces_in_powers_of_two() {
        let text = format!("a{}b", " ".repeat(8));
        assert_eq!(words("jais-2", &text), ["a", "    ", "  ", " ", " b"]);
    }

    /// Short runs of what the patterns tell apart.
    const TEXTS: &str = r"([a-zA-Z]{1,3}|[ \n\t\r]{1,3}|[0-9]{1,4}|[.!'~<]|[éß日ア\u{301}]){0,60}";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn parts_split_as_the_whole(text in TEXTS) {
            static SPLITTERS: LazyLock<Vec<Splitter>> =
                LazyLock::new(|| PRES.iter().map(Pre::splitter).collect());
            for (splitter, pre) in SPLITTERS.iter().zip(PRES) {
                let (mut parts, mut start) = (Vec::new(), 0);
                for end in splitter.cuts(&text, 1).into_iter().chain([text.len()]) {
                    let words = splitter.split(&text[start..end]).into_iter();
                    parts.extend(words.map(|word| start + word.start..start + word.end));
                    start = end;
                }
                prop_assert_eq!(parts, splitter.split(&text), "{:?}", pre.names);
            }
        }
    }

    #[test]
    fn long_texts_have_cuts() {
        let text = "It was 1 dark night,\n\n  and stormy! ".repeat(100);
        for pre in PRES {
            let n = pre.splitter().cuts(&text, 50).len();
            assert!(n > 20, "{:?}: {n}", pre.names);
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        // Quadratic would be 10^12 steps each: the test would never end.
        for pre in PRES {
            let splitter = pre.splitter();
            for unit in [" ", "a", "1", "\n", "'", "a1", " \t", "日", "é "] {
                let text = unit.repeat(1_000_000 / unit.len());
                let total: usize = splitter.split(&text).iter().map(Range::len).sum();
                assert_eq!(total, text.len(), "{:?}", pre.names);
            }
        }
    }
}
