//! Does the work: consumes, claims, walks the graph, calls models, reports.
