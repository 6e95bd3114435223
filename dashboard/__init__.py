"""The dashboard: draws what `lag_core` returns. Started by `streamlit run dashboard/app.py`."""
