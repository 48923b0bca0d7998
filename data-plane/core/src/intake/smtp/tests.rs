//! Policy of SMTP submission, case by case.
