"""Where records come from: Kafka topics, the embedded broker, producing to both, simulators."""
