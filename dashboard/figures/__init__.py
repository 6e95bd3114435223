"""Data in, Plotly figure out: pure functions, one file a concept, none of which knows Streamlit or a run."""
