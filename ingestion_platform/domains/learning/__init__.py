"""A learning platform: events of students."""
