//! Talks to models: the OpenAI chat dialect, its stream parser, retries, and the simulator.
