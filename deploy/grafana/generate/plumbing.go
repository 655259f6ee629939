package main

var plumbing = board{
	file: "plumbing", title: "plumbing", about: "Ledger, calls, and the servers themselves.",
	rows: []row{
		{"Ledger", []panel{
			graph("Operations", perSecond, "Calls of the ledger, each of a whole batch.",
				target{`sum by (operation) (rate(errand_ledger_operation_seconds_count{job=~"$job"}[$__rate_interval]))`, "{{operation}}"}),
			graph("Operation time, 99 of 100", seconds, "",
				target{quantile("0.99", "errand_ledger_operation_seconds", "operation"), "{{operation}}"}),
			graph("Operations that fail", perSecond, "",
				target{`sum by (operation) (rate(errand_ledger_operation_seconds_count{job=~"$job",outcome="error"}[$__rate_interval]))`, "{{operation}}"}),
			graph("Pool", plain, "Connections of each server.",
				target{`errand_ledger_pool_connections{job=~"$job"}`, "{{instance}} {{state}}"},
				target{`errand_ledger_pool_max_connections{job=~"$job"}`, "{{instance}} most"}),
			graph("Waiting for a connection", plain, "Calls that wait at any time, on average.",
				target{`sum by (instance) (rate(errand_ledger_pool_wait_seconds_total{job=~"$job"}[$__rate_interval]))`, "{{instance}}"}),
			graph("Size", bytesIEC, "Of the ledger on disk.", target{`max by (job) (errand_ledger_bytes{job=~"$job"})`, "{{job}}"}),
		}},
		{"PostgreSQL", []panel{
			graph("Oldest open transaction", seconds, "Dead rows younger than it stay.",
				target{`max by (job) (errand_postgres_oldest_transaction_seconds{job=~"$job"})`, "{{job}}"}),
			graph("Age of the oldest xmin", plain, "In transactions.",
				target{`max by (job) (errand_postgres_oldest_xmin_transactions{job=~"$job"})`, "{{job}}"}),
			graph("Rows of the table of live jobs", plain, "As the server estimates.",
				target{`max by (job) (errand_postgres_dead_rows{job=~"$job"})`, "{{job}} dead"},
				target{`max by (job) (errand_postgres_live_rows{job=~"$job"})`, "{{job}} live"}),
		}},
		{"Servers", []panel{
			graph("Calls", perSecond, "", target{`sum by (call) (rate(errand_api_calls_total{job=~"$job"}[$__rate_interval]))`, "{{call}}"}),
			graph("Calls by code", perSecond, "Refusals are the caller's; internal, unknown and unavailable are ours.",
				target{`sum by (code) (rate(errand_api_calls_total{job=~"$job",code!="ok"}[$__rate_interval]))`, "{{code}}"}),
			graph("Parts that can be read", plain, "0: its gauges are missing.",
				target{`min by (instance, collector) (errand_collector_up{job=~"$job"})`, "{{instance}} {{collector}}"}),
			graph("CPU", plain, "Cores.", target{`sum by (instance) (rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval]))`, "{{instance}}"}),
			graph("Memory", bytesIEC, "", target{`process_resident_memory_bytes{job=~"$job"}`, "{{instance}}"}),
			graph("Goroutines", plain, "", target{`go_goroutines{job=~"$job"}`, "{{instance}}"}),
		}},
		{"Dead letters and canaries", []panel{
			graph("Age of the oldest dead letter", seconds, "", target{`max by (job) (errand_dead_letters_oldest_seconds{job=~"$job"})`, "{{job}}"}),
			graph("Canaries", perSecond, "",
				target{`sum by (queue) (rate(errand_canaries_sent_total{job=~"$job"}[$__rate_interval]))`, "{{queue}} sent"},
				target{`sum by (queue) (rate(errand_canaries_missed_total{job=~"$job"}[$__rate_interval]))`, "{{queue}} missed"}),
			graph("Since the last canary came back", seconds, "",
				target{`time() - max by (queue) (errand_canary_last_success_timestamp_seconds{job=~"$job"})`, "{{queue}}"}),
		}},
	},
}
