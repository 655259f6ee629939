package insight

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/errandhq/errand/ledger"
)

// patternSource bounds how much of a message is looked at: what failures have
// in common is at the front.
const patternSource = 1024

// Pattern is what messages of the same failure have in common: the first line
// with text, in which "#" stands for every number, id and hexadecimal
// string, and "…" in quotation marks for what was quoted. Equal patterns are
// taken for one failure. The pattern of a pattern is that pattern.
func Pattern(message string) string {
	var p pattern
	p.read(firstLine(message))
	if text := strings.TrimSpace(p.String()); text != "" {
		return text
	}
	return "no message"
}

func firstLine(s string) string {
	if len(s) > patternSource {
		s = s[:patternSource]
	}
	s = strings.ToValidUTF8(s, "")
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// pattern is one under way.
type pattern struct {
	strings.Builder
	full bool
}

func (p *pattern) read(s string) {
	for s != "" && !p.full {
		c, size := utf8.DecodeRuneInString(s)
		switch {
		case c == '"' || c == '\'' || c == '`':
			size = p.quoted(s, p.endsInWord())
		case isWord(c):
			size = p.word(s)
		case unicode.IsSpace(c):
			if !strings.HasSuffix(p.String(), " ") {
				p.put(" ")
			}
		case unicode.IsControl(c):
		default:
			p.put(s[:size])
		}
		s = s[size:]
	}
}

// quoted replaces a quotation, if s begins with one, and returns how much of s
// it took. An apostrophe within a word begins none.
func (p *pattern) quoted(s string, inWord bool) int {
	end := strings.IndexByte(s[1:], s[0])
	if end < 0 || s[0] == '\'' && inWord {
		p.put(s[:1])
		return 1
	}
	p.put(s[:1] + "…" + s[:1])
	return end + 2
}

// word copies a word, or replaces what in it is a number or an id, and returns
// how much of s it took.
func (p *pattern) word(s string) int {
	if isUUID(s) {
		p.number()
		return uuidLen
	}
	n := strings.IndexFunc(s, func(c rune) bool { return !isWord(c) })
	if n < 0 {
		n = len(s)
	}
	w := s[:n]
	if isID(w) {
		p.number()
		return n
	}
	for w != "" {
		text := strings.IndexFunc(w, isDigit)
		if text < 0 {
			text = len(w)
		}
		p.put(w[:text])
		if w = w[text:]; w != "" {
			p.number()
			w = strings.TrimLeft(w, "0123456789")
		}
	}
	return n
}

// number writes "#", once for numbers that only a separator parts, as in
// addresses, versions and dates.
func (p *pattern) number() {
	s := p.String()
	if n := len(s); n >= 1 && s[n-1] == '#' || n >= 2 && s[n-2] == '#' && strings.IndexByte(".-:/,_", s[n-1]) >= 0 {
		if s[n-1] != '#' {
			p.Reset()
			p.WriteString(s[:n-1])
		}
		return
	}
	p.put("#")
}

// put writes as far as there is room, in whole characters.
func (p *pattern) put(s string) {
	for _, c := range s {
		if p.Len()+utf8.RuneLen(c) > ledger.MaxFaultMessage {
			p.full = true
			return
		}
		p.WriteRune(c)
	}
}

func (p *pattern) endsInWord() bool {
	c, _ := utf8.DecodeLastRuneInString(p.String())
	return c != utf8.RuneError && isWord(c)
}

func isDigit(c rune) bool { return c >= '0' && c <= '9' }
func isWord(c rune) bool  { return unicode.IsLetter(c) || isDigit(c) }

func isHex(c rune) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

// isID reports whether a word is no word, but a hexadecimal or otherwise random string.
func isID(w string) bool {
	rest, hex := strings.CutPrefix(w, "0x")
	switch {
	case !strings.ContainsFunc(w, isDigit):
		return false
	case hex || len(w) >= 8:
		return !strings.ContainsFunc(rest, func(c rune) bool { return !isHex(c) }) || len(w) >= 16
	}
	return false
}

// uuidLen is the length of a UUID as people write it.
const uuidLen = 36

func isUUID(s string) bool {
	if len(s) < uuidLen {
		return false
	}
	for i, c := range []byte(s[:uuidLen]) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !isHex(rune(c)) {
			return false
		}
	}
	return true
}
