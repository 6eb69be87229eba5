//! SQL text with bound values, prepared once per connection. (`diesel::sql_query` is prepared anew at each call.)

use diesel::{
    QueryableByName,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    result::{DatabaseErrorKind, Error as DieselError, QueryResult},
    serialize::ToSql,
    sql_types::{HasSqlType, Untyped},
};
use diesel_async::AsyncPgConnection;
use futures::{FutureExt as _, future::BoxFuture};

use crate::pool::PATIENCE;

/// A statement whose `?` stand for the bound values, in order. Never built from anything but literals.
pub(crate) struct Sql {
    text: &'static str,
    binds: Vec<Box<dyn Bind>>,
}

/// Starts a statement.
pub(crate) fn sql(text: &'static str) -> Sql {
    Sql { text, binds: Vec::new() }
}

trait Bind: Send + Sync {
    fn push<'b>(&'b self, pass: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()>;
}

struct Value<Type, T> {
    value: T,
    kind: std::marker::PhantomData<fn() -> Type>,
}

impl<Type, T> Bind for Value<Type, T>
where
    Pg: HasSqlType<Type>,
    Type: 'static,
    T: ToSql<Type, Pg> + Send + Sync,
{
    fn push<'b>(&'b self, pass: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_bind_param(&self.value)
    }
}

impl Sql {
    /// Binds the next `?`.
    pub(crate) fn bind<Type, T>(mut self, value: T) -> Self
    where
        Pg: HasSqlType<Type>,
        Type: 'static,
        T: ToSql<Type, Pg> + Send + Sync + 'static,
    {
        self.binds.push(Box::new(Value::<Type, T> { value, kind: std::marker::PhantomData }));
        self
    }
}

/// Waits for an answer, but not for ever.
async fn in_time<T>(answer: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
    let silence = || DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new(SILENCE.to_owned()));
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(silence()))
}

/// What is said of a server that does not answer.
pub(crate) const SILENCE: &str = "the database does not answer";

impl QueryFragment<Pg> for Sql {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut parts = self.text.split('?');
        if let Some(first) = parts.next() {
            pass.push_sql(first);
        }
        for (part, bind) in parts.zip(&self.binds) {
            bind.push(&mut pass)?;
            pass.push_sql(part);
        }
        Ok(())
    }
}

impl QueryId for Sql {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Sql {
    type SqlType = Untyped;
}

impl<Conn> diesel::query_dsl::RunQueryDsl<Conn> for Sql {}

// Methods of its own, so that no module has to import diesel's, which take over `first` and `load` of every vector. Through a
// shared reference, so that statements which are polled together are sent together (pipelined); boxed, so that their futures
// are `Send` wherever they are used.
impl Sql {
    /// Every row.
    pub(crate) fn load<R>(self, conn: &AsyncPgConnection) -> BoxFuture<'_, QueryResult<Vec<R>>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        async move {
            let mut conn = conn;
            in_time(diesel_async::RunQueryDsl::load::<R>(self, &mut conn)).await
        }
        .boxed()
    }

    /// The one row of a statement that always has one.
    pub(crate) fn get_result<R>(self, conn: &AsyncPgConnection) -> BoxFuture<'_, QueryResult<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        async move {
            let mut conn = conn;
            in_time(diesel_async::RunQueryDsl::get_result::<R>(self, &mut conn)).await
        }
        .boxed()
    }

    /// How many rows it wrote.
    pub(crate) fn execute(self, conn: &AsyncPgConnection) -> BoxFuture<'_, QueryResult<usize>> {
        async move {
            let mut conn = conn;
            in_time(diesel_async::RunQueryDsl::execute(self, &mut conn)).await
        }
        .boxed()
    }
}
