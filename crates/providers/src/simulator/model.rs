//! What the name of a model asks for.

/// The ids that `GET /v1/models` lists; the others have parameters.
pub(super) const LISTED: [&str; 3] = ["writer", "instant", "slow"];

/// The behaviour of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Model {
    Writer,
    Instant,
    Slow,
    Tokens { count: usize, rate: u32 },
    Fault { fault: Fault, variant: Variant, once: bool },
    Gate { name: String, after: u64 },
}

/// A row of the fault matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    F01,
    F02,
    F03,
    F04,
    F05,
    F06,
    F07,
    F08,
    F09,
    F10,
    F11,
    F12,
    F13,
    F17,
    F18,
    F19,
    F20,
    F21,
    F22,
    F23,
    F24,
    F25,
}

/// A variant of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Plain,
    Milliseconds,
    Date,
    Status529,
}

/// The most tokens one answer may have: the text is made before it is sent.
const MAX_TOKENS: usize = 1_000_000;

/// The name as texts depend on it: without the prefix.
pub(super) fn bare_name(name: &str) -> &str {
    name.strip_prefix("sim/").unwrap_or(name)
}

impl Model {
    /// Reads a name; `None` for an unknown one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match bare_name(name) {
            "writer" | "default" => Some(Self::Writer),
            "instant" => Some(Self::Instant),
            "slow" => Some(Self::Slow),
            name => {
                if let Some(rest) = name.strip_prefix("tokens-") {
                    let (count, rate) = rest.split_once("-rate-")?;
                    let count = count.parse().ok().filter(|count| *count <= MAX_TOKENS)?;
                    Some(Self::Tokens { count, rate: rate.parse().ok()? })
                } else if let Some(rest) = name.strip_prefix("fault-") {
                    Self::fault(rest)
                } else {
                    Self::gate(name.strip_prefix("gate-")?)
                }
            }
        }
    }

    fn fault(rest: &str) -> Option<Self> {
        let (rest, once) = rest.strip_suffix("-once").map_or((rest, false), |rest| (rest, true));
        let (number, variant) = rest.split_once('-').unwrap_or((rest, ""));
        let fault = Fault::parse(number)?;
        let variant = match (fault, variant) {
            (_, "") => Variant::Plain,
            (Fault::F04, "ms") => Variant::Milliseconds,
            (Fault::F04, "date") => Variant::Date,
            (Fault::F06, "529") => Variant::Status529,
            _ => return None,
        };
        // The row says "waits, then succeeds": a limit that never ends is F24.
        Some(Self::Fault { fault, variant, once: once || fault == Fault::F04 })
    }

    fn gate(rest: &str) -> Option<Self> {
        let counted = rest.rsplit_once("-after-").and_then(|(name, count)| Some((name, count.parse().ok()?)));
        let (name, after) = counted.unwrap_or((rest, 0));
        (!name.is_empty()).then(|| Self::Gate { name: name.to_owned(), after })
    }
}

impl Fault {
    fn parse(number: &str) -> Option<Self> {
        Some(match number {
            "F01" => Self::F01,
            "F02" => Self::F02,
            "F03" => Self::F03,
            "F04" => Self::F04,
            "F05" => Self::F05,
            "F06" => Self::F06,
            "F07" => Self::F07,
            "F08" => Self::F08,
            "F09" => Self::F09,
            "F10" => Self::F10,
            "F11" => Self::F11,
            "F12" => Self::F12,
            "F13" => Self::F13,
            "F17" => Self::F17,
            "F18" => Self::F18,
            "F19" => Self::F19,
            "F20" => Self::F20,
            "F21" => Self::F21,
            "F22" => Self::F22,
            "F23" => Self::F23,
            "F24" => Self::F24,
            "F25" => Self::F25,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_the_prefix() {
        assert_eq!(Model::parse("sim/writer"), Some(Model::Writer));
        assert_eq!(Model::parse("writer"), Some(Model::Writer));
        assert_eq!(Model::parse("tokens-40-rate-20"), Some(Model::Tokens { count: 40, rate: 20 }));
        assert_eq!(
            Model::parse("sim/fault-F08-once"),
            Some(Model::Fault { fault: Fault::F08, variant: Variant::Plain, once: true })
        );
        assert_eq!(
            Model::parse("fault-F04-date"),
            Some(Model::Fault { fault: Fault::F04, variant: Variant::Date, once: true })
        );
        assert_eq!(Model::parse("gate-a-b"), Some(Model::Gate { name: "a-b".into(), after: 0 }));
        assert_eq!(Model::parse("gate-a-after-2"), Some(Model::Gate { name: "a".into(), after: 2 }));
    }

    #[test]
    fn other_names_are_unknown() {
        for name in ["", "gpt", "fault-F14", "fault-F01-ms", "fault-f08", "tokens-x-rate-1", "tokens-5", "gate-"] {
            assert_eq!(Model::parse(name), None, "{name}");
        }
    }
}
