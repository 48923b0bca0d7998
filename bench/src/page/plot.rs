//! Plots as inline SVG, coloured by the page's style sheet. Pure: points in, text out.

use super::scale::Scale;
use super::text::{escaped, number, put};

/// Width of every plot, in its own units.
const WIDTH: f64 = 640.0;
const MARGIN_LEFT: f64 = 58.0;
const MARGIN_RIGHT: f64 = 14.0;
const MARGIN_TOP: f64 = 10.0;
const MARGIN_BOTTOM: f64 = 28.0;
/// Units that the label at the right end takes, with the half of its neighbour.
const X_END_ROOM: f64 = 70.0;
/// Height of one row of a bar plot.
const ROW: f64 = 52.0;
/// Colours that the style sheet knows.
const COLOURS: usize = 5;

/// One line of a plot.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// What the legend says beside the name.
    pub(crate) note: String,
    pub(crate) colour: usize,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
    /// The area below it is tinted.
    pub(crate) filled: bool,
}

/// Lines over a common pair of axes.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// What the axes are.
    pub(crate) about: &'a str,
    pub(crate) wide: bool,
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    pub(crate) lines: Vec<Line<'a>>,
    /// The label at the right end of the x axis, where no tick is.
    pub(crate) x_end: Option<&'a str>,
}

impl Plot<'_> {
    /// The plot with its title and legend; says so where there is nothing to draw.
    pub(crate) fn render(&self, out: &mut String) {
        let class = if self.wide { "card wide" } else { "card" };
        let (title, about) = (escaped(self.title), escaped(self.about));
        put(out, format_args!("<div class=\"{class}\"><h2>{title}</h2><p class=\"about\">{about}</p>"));
        if self.lines.iter().all(|line| line.points.is_empty()) {
            out.push_str("<p class=\"empty\">Not measured in this run.</p></div>\n");
            return;
        }
        out.push_str("<ul class=\"legend\">");
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let (colour, name, note) = (line.colour % COLOURS, escaped(line.name), escaped(&line.note));
            put(out, format_args!("<li class=\"k{colour}\">{name} <span>{note}</span></li>"));
        }
        out.push_str("</ul>");
        self.draw(out);
        out.push_str("</div>\n");
    }

    fn draw(&self, out: &mut String) {
        // A wide card is twice as wide on the page: drawn in more units, its letters have the same size.
        let width = if self.wide { WIDTH * 1.72 } else { WIDTH };
        let height = if self.wide { 300.0 } else { 240.0 };
        let (left, right, top, bottom) = (MARGIN_LEFT, width - MARGIN_RIGHT, MARGIN_TOP, height - MARGIN_BOTTOM);
        let x = |value: f64| left + self.x.place(value) * (right - left);
        let y = |value: f64| bottom - self.y.place(value) * (bottom - top);
        let title = escaped(self.title);
        put(out, format_args!("<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">"));
        for (value, label) in self.y.ticks() {
            let at = y(value);
            put(out, format_args!("<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>"));
            let (x, y, label) = (left - 8.0, at + 4.0, escaped(&label));
            put(out, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>"));
        }
        // The label at the end needs its place.
        let room = if self.x_end.is_some() { right - X_END_ROOM } else { right };
        for (value, label) in self.x.ticks().into_iter().filter(|(value, _)| x(*value) <= room) {
            let at = x(value);
            if self.x_end.is_some() {
                put(out, format_args!("<path class=\"grid\" d=\"M{at:.1} {top:.1}V{bottom:.1}\"/>"));
            }
            let anchor = anchor(at, left, right);
            let (y, label) = (bottom + 19.0, escaped(&label));
            put(out, format_args!("<path class=\"axis\" d=\"M{at:.1} {bottom:.1}v4\"/>"));
            put(out, format_args!("<text x=\"{at:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{label}</text>"));
        }
        if let Some(label) = self.x_end {
            let (y, label) = (bottom + 19.0, escaped(label));
            put(out, format_args!("<text x=\"{right:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>"));
        }
        put(out, format_args!("<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>"));
        for line in &self.lines {
            draw_line(line, x, y, bottom, out);
        }
        out.push_str("</svg>");
    }
}

fn draw_line(line: &Line<'_>, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64, bottom: f64, out: &mut String) {
    let finite = line.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
    let points: Vec<_> = finite.map(|(at, value)| (x(*at), y(*value))).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let colour = line.colour % COLOURS;
    let mut path = String::with_capacity(points.len() * 14);
    for (index, (x, y)) in points.iter().enumerate() {
        put(&mut path, format_args!("{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' }));
    }
    if line.filled {
        let (from, to) = (first.0, last.0);
        put(
            out,
            format_args!("<path class=\"area f{colour}\" d=\"{path}L{to:.1} {bottom:.1}L{from:.1} {bottom:.1}Z\"/>"),
        );
    }
    if points.len() == 1 {
        let (x, y) = first;
        put(out, format_args!("<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"));
        return;
    }
    let dash = if line.dashed { " dash" } else { "" };
    put(out, format_args!("<path class=\"curve s{colour}{dash}\" d=\"{path}\"/>"));
}

/// Labels at the ends stay inside.
fn anchor(at: f64, left: f64, right: f64) -> &'static str {
    if at > right - 12.0 {
        "end"
    } else if at < left + 1.0 {
        "start"
    } else {
        "middle"
    }
}

/// One row of a bar plot: parts beside each other.
pub(crate) struct Bar {
    pub(crate) name: String,
    /// Value, colour, and whether it is drawn lighter.
    pub(crate) parts: Vec<(f64, usize, bool)>,
}

/// Bars of a common length scale, each with its name above and its sum behind it.
pub(crate) fn bars(rows: &[Bar], unit: &str, out: &mut String) {
    let sum = |bar: &Bar| bar.parts.iter().map(|(value, ..)| value.max(0.0)).sum::<f64>();
    let longest = rows.iter().map(sum).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let room = WIDTH - 120.0;
    let height = rows.len() as f64 * ROW;
    put(out, format_args!("<svg viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" aria-label=\"bars\">"));
    for (index, bar) in rows.iter().enumerate() {
        let top = index as f64 * ROW;
        let name = escaped(&bar.name);
        put(out, format_args!("<text class=\"label\" x=\"0\" y=\"{:.1}\">{name}</text>", top + 14.0));
        let mut x = 0.0;
        for (value, colour, light) in &bar.parts {
            let width = value.max(0.0) / longest * room;
            let light = if *light { " light" } else { "" };
            let (colour, y) = (colour % COLOURS, top + 21.0);
            put(
                out,
                format_args!(
                    "<rect class=\"f{colour}{light}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"18\" \
                     rx=\"3\"><title>{}</title></rect>",
                    number(*value)
                ),
            );
            x += width + 1.5;
        }
        let (x, y, total) = (x + 8.0, top + 35.0, number(sum(bar)));
        put(out, format_args!("<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\">{total} {}</text>", escaped(unit)));
    }
    out.push_str("</svg>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        let line = Line { name: "a<b", note: "x&y".into(), colour: 7, points, dashed: true, filled: true };
        let plot = Plot {
            title: "T",
            about: "",
            wide: false,
            x: Scale::Seconds { max: 10.0 },
            y: Scale::Linear { max: 100.0 },
            lines: vec![line],
            x_end: None,
        };
        let mut out = String::new();
        plot.render(&mut out);
        out
    }

    #[test]
    fn points_stand_where_the_axes_say() {
        let text = plot(vec![(0.0, 0.0), (10.0, 100.0)]);
        assert!(text.contains("d=\"M58.0 212.0L626.0 10.0\""), "{text}");
        assert!(text.contains("a&lt;b <span>x&amp;y</span>"), "{text}");
    }

    #[test]
    fn nothing_to_draw_is_said_and_one_point_is_a_dot() {
        assert!(plot(Vec::new()).contains("Not measured"));
        assert!(plot(vec![(1.0, 1.0), (f64::NAN, 2.0)]).contains("<circle"));
        assert!(!plot(vec![(f64::NAN, f64::NAN)]).contains("NaN"));
    }

    #[test]
    fn bars_have_their_sum_behind_them() {
        let mut out = String::new();
        bars(&[Bar { name: "p".into(), parts: vec![(60.0, 0, false), (40.0, 0, true)] }], "µs", &mut out);
        assert!(out.contains(">100 µs<") && out.contains("width=\"312.0\""), "{out}");
    }
}
