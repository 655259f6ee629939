package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/charmbracelet/colorprofile"
	"golang.org/x/term"
)

// printer writes answers: one JSON document a command, or text for people with
// colours where standard output is a terminal and NO_COLOR is not set.
type printer struct {
	json bool
	w    io.Writer
	err  error
}

func newPrinter(w io.Writer, asJSON bool) *printer {
	p := &printer{json: asJSON, w: w}
	if !asJSON {
		styled := colorprofile.NewWriter(w, os.Environ())
		if os.Getenv("NO_COLOR") != "" {
			styled.Profile = colorprofile.NoTTY // no bold either
		}
		p.w = styled
	}
	return p
}

// value prints v as JSON, on one line, or else what text makes of it.
func (p *printer) value(v any, text func()) error {
	if !p.json {
		text()
		return p.err
	}
	enc := json.NewEncoder(p.w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// linef prints a line of text.
func (p *printer) linef(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil && p.err == nil {
		p.err = fmt.Errorf("write the answer: %w", err)
	}
}

func (p *printer) flush() {}

var (
	headStyle  = lipgloss.NewStyle().Bold(true)
	faintStyle = lipgloss.NewStyle().Faint(true)
	goodStyle  = lipgloss.NewStyle().Foreground(lipgloss.Green)
	badStyle   = lipgloss.NewStyle().Foreground(lipgloss.Red)
	busyStyle  = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	nextStyle  = lipgloss.NewStyle().Foreground(lipgloss.Cyan)
)

// table prints aligned columns, without lines between them. Columns whose
// header begins with ">" are right-aligned: numbers.
func (p *printer) table(headers []string, rows [][]string) {
	right := make([]bool, len(headers))
	titles := make([]string, len(headers))
	for i, h := range headers {
		titles[i], right[i] = strings.CutPrefix(h, ">")
	}
	last := len(headers) - 1
	t := table.New().Headers(titles...).Rows(rows...).Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).
		BorderHeader(false).BorderColumn(false).Wrap(false).
		StyleFunc(func(row, col int) lipgloss.Style {
			s := lipgloss.NewStyle()
			if row == table.HeaderRow {
				s = headStyle
			}
			if right[col] {
				s = s.Align(lipgloss.Right)
			}
			if col < last {
				s = s.PaddingRight(2)
			}
			return s
		})
	for line := range strings.SplitSeq(t.Render(), "\n") {
		p.linef("%s", strings.TrimRight(line, " "))
	}
}

// pairs prints names and values in two columns.
func (p *printer) pairs(pairs [][2]string) {
	width := 0
	for _, kv := range pairs {
		width = max(width, len(kv[0]))
	}
	for _, kv := range pairs {
		p.linef("%s  %s", headStyle.Render(fmt.Sprintf("%-*s", width, kv[0])), kv[1])
	}
}

// stateText colours a job's state.
func stateText(state string) string {
	switch state {
	case "succeeded", "live", "ok", "pass":
		return goodStyle.Render(state)
	case "dead", "wrong", "fail":
		return badStyle.Render(state)
	case "running", "draining":
		return busyStyle.Render(state)
	case "ready":
		return nextStyle.Render(state)
	default:
		return faintStyle.Render(state)
	}
}

// age is a duration as people say it: one unit, or two where one is coarse.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "in " + age(-d)
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// printable makes foreign text safe for a terminal: control characters, which
// could move its cursor or change its title, become visible escapes.
func printable(s string) string {
	clean := func(r rune) bool { return r == '\n' || r == '\t' || (r != utf8.RuneError && !unicode.IsControl(r)) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case clean(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\x%02x", r)
		}
	}
	return b.String()
}

// oneLine is printable, on one line of at most n characters.
func oneLine(s string, n int) string {
	s = strings.Join(strings.Fields(printable(s)), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// isTerminal reports whether f is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
