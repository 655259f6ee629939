// Package observe shows that what an operator is given works: a real Prometheus
// scrapes a real Errand on PostgreSQL, under load and with faults; every
// expression of the dashboards has a value, every alert fires in the scenario
// made for it and falls silent after it, and the pages say what is exposed.
package observe
