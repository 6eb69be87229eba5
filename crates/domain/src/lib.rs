//! What is true: ids, states, the flow document, templates, the graph walk. Pure: no input or output, no clock.
