package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is one dashboard. Queue and kind say which variables it has beside
// the data source and the scrape job.
type board struct {
	file, title, about string
	queue, kind        bool
	rows               []row
}

// row is a titled row of panels.
type row struct {
	title  string
	panels []panel
}

// panel is a graph, or one number if its span is small.
type panel struct {
	title, unit, about string
	number             bool
	alarm              float64 // a number turns red from here on; zero: never
	span               uint32  // of 24
	targets            []target
}

// target is one expression and the legend of its series.
type target struct{ expr, legend string }

// graph is a panel of a third of the width.
func graph(title, unit, about string, targets ...target) panel {
	return panel{title: title, unit: unit, about: about, span: 8, targets: targets}
}

// number is a panel of one value.
func number(title, unit, about string, alarm float64, expr string) panel {
	return panel{title: title, unit: unit, about: about, number: true, alarm: alarm, span: 4, targets: []target{{expr, ""}}}
}

// The units that panels use, as Grafana names them.
const (
	plain     = "short"
	perSecond = "ops"
	seconds   = "s"
	share     = "percentunit"
	bytesIEC  = "bytes"
)

func (b board) build() (dashboard.Dashboard, error) {
	d := dashboard.NewDashboardBuilder("Errand: "+b.title).
		Uid("errand-"+b.file).Description(b.about).Tags([]string{"errand"}).
		Time("now-3h", "now").Refresh("30s").Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("Errand").Type(dashboard.DashboardLinkTypeDashboards).
			Tags([]string{"errand"}).AsDropdown(true).KeepTime(true).IncludeVars(true)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(variable("job", "Errand", `label_values(errand_build_info, job)`))
	if b.queue {
		d.WithVariable(variable("queue", "Queue", `label_values(errand_queue_jobs{job=~"$job"}, queue)`))
	}
	if b.kind {
		d.WithVariable(variable("kind", "Kind", `label_values(errand_jobs_enqueued_total{job=~"$job",queue=~"$queue"}, kind)`))
	}
	id := uint32(0)
	for _, r := range b.rows {
		id++
		d.WithRow(dashboard.NewRowBuilder(r.title).Id(id))
		for _, p := range r.panels {
			id++
			d.WithPanel(p.build(id))
		}
	}
	return d.Build()
}

// source is the data source that the reader chose.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

// variable lets the reader choose among the values of a label, all by default.
func variable(name, label, query string) *dashboard.QueryVariableBuilder {
	all := dashboard.VariableOption{
		Text:  dashboard.StringOrArrayOfString{String: cog.ToPtr("All")},
		Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")},
	}
	return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(source()).
		Query(dashboard.StringOrMap{String: cog.ToPtr(query)}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).AllValue(".*").Current(all)
}

func (p panel) queries() []cog.Builder[variants.Dataquery] {
	var out []cog.Builder[variants.Dataquery]
	for i, t := range p.targets {
		q := prometheus.NewDataqueryBuilder().Expr(t.expr).LegendFormat(t.legend).RefId(string(rune('A' + i))).Datasource(source())
		if p.number {
			q.Instant()
		} else {
			q.Range()
		}
		out = append(out, q)
	}
	return out
}

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	if p.number {
		return stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source()).
			Span(p.span).Height(4).GraphMode(common.BigValueGraphModeNone).Thresholds(p.thresholds()).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).Targets(p.queries())
	}
	return timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source()).
		Span(p.span).Height(8).Min(0).FillOpacity(8).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeTable).
			Placement(common.LegendPlacementBottom).ShowLegend(true).Calcs([]string{"lastNotNull", "max"})).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		Targets(p.queries())
}

// thresholds are green, and red from the alarm on.
func (p panel) thresholds() *dashboard.ThresholdsConfigBuilder {
	steps := []dashboard.Threshold{{Color: "green"}}
	if p.alarm > 0 {
		steps = append(steps, dashboard.Threshold{Color: "red", Value: cog.ToPtr(p.alarm)})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}
