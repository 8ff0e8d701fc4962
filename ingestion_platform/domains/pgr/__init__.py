"""Civic grievances: events of complaints."""
