//! A deletion certificate as a page to print and file: no script, no font, no address to fetch anything from.
//!
//! The page is made of the note alone, without clock, time zone or settings, so that whoever has it can take the
//! note out, make the page again and see that nothing on it was changed. What changes here changes pages that
//! people have filed: such a change gets a number of its own in [`FORM`], and the one before is kept beside it.

use super::{Deletion, Erasure, Evidence, NotADeletion};
use crate::text::{bytes, markup, took};
use jiff::Timestamp;
use std::fmt::Write as _;

const FORM: &str = "holm deletion certificate page, version 1";
const BEFORE: &str = "<pre id=\"note\">";
const AFTER: &str = "</pre>";

const STYLE: &str = "\
@page{size:A4;margin:18mm 16mm}body{font:10.5pt/1.4 system-ui,sans-serif;color:#1b1f24;background:#fff;\
max-width:178mm;margin:0 auto;padding:1em}h1{font-size:18pt;margin:0}h2{font-size:12pt;margin:1.4em 0 .3em;\
border-bottom:1pt solid #8b949e;break-after:avoid}table{border-collapse:collapse;width:100%}thead{display:table-header-group}\
tr{break-inside:avoid}th,td{text-align:left;vertical-align:top;padding:.15em .8em .15em 0;overflow-wrap:anywhere;\
unicode-bidi:isolate}thead th{border-bottom:.5pt solid #8b949e}tbody th{width:30%;font-weight:600}.devices{font-size:8.5pt}\
.verdict{border:1.5pt solid;padding:.5em .8em;margin:1em 0}.verdict p,.verdict ul{margin:.2em 0}\
pre{font:7pt/1.3 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;margin:0}";

/// The page of this note. Whether the note is to be believed is not asked here.
pub fn page(note: &str) -> Result<String, NotADeletion> {
    let (text, signature) = note.rsplit_once("\n\n").ok_or(NotADeletion)?;
    let (deletion, _) = Deletion::read(text)?;
    let signer = signature.split(' ').nth(1).ok_or(NotADeletion)?;
    let mut page = Page(String::with_capacity(2 * note.len()));
    let name = markup(&deletion.slice.name);
    page.put(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"generator\" content=\"{FORM}\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>Deletion certificate of {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Deletion certificate</h1>\n"
    ));
    verdict(&mut page, &deletion);
    what(&mut page, &deletion, signer);
    people(&mut page, &deletion);
    disk(&mut page, &deletion);
    devices(&mut page, &deletion);
    page.heading("Not covered");
    page.list(&deletion.not_covered);
    page.heading("What was signed");
    page.put(&format!(
        "<p>Signed by {}. Paper proves nothing: keep this file. <code>holm certificate verify FILE --key KEY</code> \
         says whether the text below was signed by the log's key, and whether everything above follows from it.</p>\n\
         {BEFORE}{}{AFTER}\n</body>\n</html>\n",
        markup(signer),
        verbatim(note)
    ));
    Ok(page.0)
}

/// The note in a page, if it is one.
pub fn note_in(text: &str) -> Option<String> {
    let page = text.strip_prefix("<!DOCTYPE html>")?;
    let (_, rest) = page.split_once(BEFORE)?;
    let (note, _) = rest.split_once(AFTER)?;
    Some(note.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

/// Each character as it is, so that it can be taken out again.
fn verbatim(note: &str) -> String {
    note.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn verdict(page: &mut Page, deletion: &Deletion) {
    let gaps = deletion.gaps();
    page.put("<div class=\"verdict\">\n");
    if gaps.is_empty() {
        page.put(&format!("<p><strong>{} is destroyed.</strong> ", markup(&deletion.slice.name)));
        page.put("Its key is gone, and so are its machine and its disk; its devices were cleaned, with evidence.</p>\n");
    } else {
        page.put(&format!(
            "<p><strong>{} is closed. NOT PROVEN:</strong></p>\n",
            markup(&deletion.slice.name)
        ));
        page.list(&gaps);
    }
    page.put("</div>\n");
}

fn what(page: &mut Page, deletion: &Deletion, signer: &str) {
    page.heading("What was destroyed");
    page.facts(|row| {
        row("Slice", &deletion.slice.name);
        row("Slice id", &deletion.slice.id);
        if let Some(p) = &deletion.project {
            row("Project", &p.name);
            row("Purpose", &p.purpose);
            row("Lead", &p.lead);
            row("Policies", &p.pack);
        }
        row("Level", &format!("{} ({})", deletion.level.id, deletion.level.name));
        if let Some(p) = &deletion.placement {
            let product = deletion.host.as_ref().and_then(|h| h.product.as_deref()).unwrap_or_default();
            let simulated = deletion.host.as_ref().is_some_and(|h| h.simulated);
            let kind = if simulated { "SIMULATED" } else { product };
            row("Host", &if kind.is_empty() { p.host.clone() } else { format!("{} ({kind})", p.host) });
        }
        row("Machine gone from the host", &time(deletion.detached));
        row("Issued", &time(Some(deletion.issued)));
        row("Issued by", signer);
        let mut head = deletion.log_checkpoint.lines().skip(1);
        let (size, root) = (head.next().unwrap_or_default(), head.next().unwrap_or_default());
        row("The log then", &format!("{size} entries, root {root}"));
    });
}

fn people(page: &mut Page, deletion: &Deletion) {
    page.heading("Who decided");
    page.facts(|row| {
        row("Requested", &format!("{}, {}", deletion.requested.by, time(Some(deletion.requested.at))));
        for a in &deletion.approved {
            let comment = if a.comment.is_empty() { String::new() } else { format!(": {}", a.comment) };
            row("Approved", &format!("{}, {}{comment}", a.by, time(Some(a.at))));
        }
        if deletion.approvals_needed > 0 {
            row("Approvals demanded", &deletion.approvals_needed.to_string());
        }
        let closed = deletion.closed_by();
        match deletion.closed_at {
            Some(at) => row("Closed", &format!("{closed}, {}", time(Some(at)))),
            None => row("Closed", closed),
        }
    });
}

fn disk(page: &mut Page, deletion: &Deletion) {
    let volume = &deletion.volume;
    page.heading("Disk and key");
    page.facts(|row| {
        row("Disk", &volume.id);
        row("Fingerprint of its key", &volume.key_fingerprint);
        row("Key destroyed", &time(volume.key_destroyed));
        erased(row, volume.header_and_key_slots_overwritten, volume.evidence.as_ref());
    });
    for other in &deletion.other_volumes {
        page.heading(&format!("{} disk", other.kind));
        page.facts(|row| {
            row("Disk", &other.id);
            match other.key_fingerprint.as_str() {
                "" => row("Its key", "was in its host's memory alone"),
                print => row("Fingerprint of its key", print),
            }
            erased(row, other.header_and_key_slots_overwritten, other.evidence.as_ref());
        });
    }
}

fn erased(row: &mut dyn FnMut(&str, &str), overwritten: bool, evidence: Option<&Erasure>) {
    row("Header and key slots overwritten", if overwritten { "yes" } else { "NO" });
    if let Some(e) = evidence {
        let (over, back) = (bytes(e.bytes_overwritten), bytes(e.bytes_discarded));
        row("Method", &format!("{}: {over} overwritten, {back} discarded", e.method));
        row("Done", &format!("{}, by {}", time(Some(e.at)), e.tool));
        row("Remark", &e.detail);
    }
}

/// By what was given to the slice: what has no evidence is in the table as such.
fn devices(page: &mut Page, deletion: &Deletion) {
    let Some(placement) = &deletion.placement else { return };
    page.heading("Devices");
    page.put("<table class=\"devices\">\n<thead><tr>");
    for column in
        ["Device", "Kind", "Cleaned", "Overwritten and read back", "Not reached", "Method", "Done, and run"]
    {
        page.put(&format!("<th>{column}</th>"));
    }
    page.put("</tr></thead>\n<tbody>\n");
    for address in &deletion.had(placement) {
        let kind = deletion.device_kinds.get(address).map(String::as_str).unwrap_or_default();
        let cells = match deletion.evidence(address) {
            Some(e) => evidence(e),
            None => ["NO EVIDENCE".to_owned(), String::new(), String::new(), String::new(), String::new()],
        };
        page.put(&format!("<tr><td>{}</td><td>{}</td>", markup(address), markup(kind)));
        cells.iter().for_each(|cell| page.put(&format!("<td>{}</td>", markup(cell))));
        page.put("</tr>\n");
    }
    page.put("</tbody>\n</table>\n");
}

fn evidence(e: &Evidence) -> [String; 5] {
    let cleaned = match (e.cleaned, e.detail.as_str()) {
        (true, "") => "yes".to_owned(),
        (true, detail) => format!("yes: {detail}"),
        (false, detail) => format!("NO: {detail}"),
    };
    [
        cleaned,
        format!("{} of {}", bytes(e.bytes_verified), bytes(e.bytes_total)),
        if e.bytes_unreached > 0 { bytes(e.bytes_unreached) } else { "nothing".to_owned() },
        format!("{}, by {}", e.method, e.tool),
        format!("{} in {}, run {}", time(Some(e.at)), took(e.took_ms), e.run),
    ]
}

/// The same wherever it is read.
fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "NOT KNOWN".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

struct Page(String);

impl Page {
    /// What is markup already.
    fn put(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{text}</h2>");
    }

    fn list(&mut self, items: &[String]) {
        self.put("<ul>\n");
        for item in items {
            let _ = writeln!(self.0, "<li>{}</li>", markup(item));
        }
        self.put("</ul>\n");
    }

    /// Rows of a name and a text; one without text is left out.
    fn facts(&mut self, fill: impl FnOnce(&mut dyn FnMut(&str, &str))) {
        self.put("<table>\n<tbody>\n");
        fill(&mut |name, value| {
            if !value.is_empty() {
                let _ = writeln!(self.0, "<tr><th>{name}</th><td>{}</td></tr>", markup(value));
            }
        });
        self.put("</tbody>\n</table>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use quick_xml::Reader;
    use quick_xml::events::Event;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn note(value: &Value) -> String {
        format!("{value:#}\n\n\u{2014} holm.example/holm AAAA\n")
    }

    /// Its elements, attributes among them; panics where it is not well-formed.
    fn parts(page: &str) -> BTreeSet<String> {
        let mut reader = Reader::from_str(page);
        let mut found = BTreeSet::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Eof => return found,
                Event::Start(e) | Event::Empty(e) => {
                    let name = e.name().as_ref().to_owned();
                    for attribute in e.attributes() {
                        let key = attribute.unwrap().key;
                        found.insert(format!("{name} {}", key.as_ref()));
                    }
                    found.insert(name);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_whole_one() {
        let note = note(&sample());
        let page = page(&note).unwrap();
        assert_eq!(note_in(&page), Some(note));
        insta::assert_snapshot!(page);
    }

    #[test]
    fn what_is_not_proven_stands_at_the_head() {
        let mut value = sample();
        value["volume"]["key_destroyed"] = Value::Null;
        value["devices"].as_array_mut().unwrap().truncate(1);
        let page = page(&note(&value)).unwrap();
        let head = page.find("NOT PROVEN").unwrap();
        assert!(head < page.find("<h2>").unwrap() && !page.contains("is destroyed"));
        assert!(page.contains("<td>NO EVIDENCE</td>") && page.contains("<td>NOT KNOWN</td>"));
    }

    /// Every text in it is somebody's: a tenant's, an officer's, a host's.
    #[test]
    fn no_text_becomes_markup() {
        let plain = parts(&page(&note(&sample())).unwrap());
        let allowed = [
            "body",
            "code",
            "div",
            "div class",
            "h1",
            "h2",
            "head",
            "html",
            "html lang",
            "li",
            "meta",
            "meta charset",
            "meta content",
            "meta http-equiv",
            "meta name",
            "p",
            "pre",
            "pre id",
            "strong",
            "style",
            "table",
            "table class",
            "tbody",
            "td",
            "th",
            "thead",
            "title",
            "tr",
            "ul",
        ];
        assert_eq!(plain.iter().map(String::as_str).collect::<Vec<_>>(), allowed);
        let evil = "</pre><script src=\"//x\">\u{202e}'&lt;</script><pre id=\"note\">]]>\u{1b}[0m";
        let mut value = sample();
        poison(&mut value, evil, "");
        let note = note(&value);
        let page = page(&note).unwrap();
        assert_eq!(parts(&page), plain);
        assert_eq!(note_in(&page), Some(note));
        let shown = page.split(BEFORE).next().unwrap();
        assert!(!shown.contains(['\u{202e}', '\u{1b}']));
        assert!(shown.matches("&lt;script").count() > 15);
    }

    /// Every text but those that have a form.
    fn poison(value: &mut Value, evil: &str, key: &str) {
        match value {
            Value::String(text)
                if key != "certificate" && key != "log_checkpoint" && text.parse::<Timestamp>().is_err() =>
            {
                *text = format!("{text}{evil}");
            }
            Value::Array(items) => items.iter_mut().for_each(|item| poison(item, evil, "")),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, item)| poison(item, evil, key)),
            _ => {}
        }
    }
}
