// Package auth decides who calls and what they may do: bearer tokens from a
// file that holds only their hashes, and one table of roles and calls. It knows
// nothing of HTTP but the form of an Authorization header.
package auth
