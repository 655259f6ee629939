package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
)

type versionView struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisVersion tells what this binary was built from.
func thisVersion() versionView {
	v := versionView{Version: errand.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value[:min(12, len(s.Value))] + v.Commit
		case s.Key == "vcs.modified" && s.Value == "true":
			v.Commit += "+changes"
		}
	}
	return v
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := thisVersion()
			return a.out.value(v, func() {
				commit := v.Commit
				if commit != "" {
					commit = " (" + commit + ")"
				}
				a.out.linef("errand %s%s %s %s", v.Version, commit, v.Go, v.Platform)
			})
		},
	}
}
