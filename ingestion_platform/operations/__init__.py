"""Operating what flowed: verification, quarantine, maintenance, alarms, metrics."""
